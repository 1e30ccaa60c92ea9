import json
import shutil
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest

from afictl import UserError
from afictl.comparison import Method, compare
from afictl.comparison.experiment import execution
from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.seed_counts import (
    WidthRule,
    describe_rule,
    require_usable,
    required_seeds,
    train_until_narrow,
)

RULE = WidthRule("nearest", half_width=0.8, initial_seeds=2, max_seeds=6)
NEAREST = [30.0, 31.0, 30.5, 30.2, 30.4, 30.6]
QUIET = [0.5, 0.6, 0.5, 0.6, 0.5, 0.6]
"""Differences whose interval is narrow from two seeds on: 12.7 x 0.05."""
NOISY = [2.0, -1.0, 0.4, 0.6, 0.5, 0.5]
"""Their interval is wide up to six seeds."""


def half_widths_by_hand():
    """Of ``NOISY``, with printed quantiles of Student's t."""
    quantiles = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706]
    return [t * statistics.stdev(NOISY[:n]) / n**0.5 for n, t in enumerate(quantiles, start=2)]


def write_result(run, ap):
    run.folder.mkdir(parents=True, exist_ok=True)
    result = {"interpolator": run.initial_weights.as_config()["interpolator"], "seed": run.seed, "seconds": 1.0}
    (run.folder / "result.json").write_text(json.dumps(result | {"metrics": {"box/AP": ap}, "per_class": []}))


@pytest.fixture
def experiment(settings):
    methods = tuple(Method(name, name) for name in ("nearest", "bilinear", "bicubic"))
    return replace(settings, methods=methods, seeds=tuple(range(6)))


def ap_of(run, differences):
    return NEAREST[run.seed] + (differences[run.method][run.seed] if run.method != "nearest" else 0.0)


def finish(experiment, differences, counts):
    """Results of the first runs of each method."""
    for run in replace(experiment, seed_counts=counts).runs():
        write_result(run, ap_of(run, differences))


def counts_of(required):
    return {name: item.count for name, item in required.items()}


@pytest.mark.parametrize(
    ("nearest", "bilinear", "bicubic", "expected"),
    [
        (0, 0, 0, (2, 2, 2)),  # nothing is finished
        (2, 2, 1, (2, 2, 2)),
        (2, 2, 2, (3, 2, 3)),  # bilinear is narrow, bicubic is wide
        (3, 2, 2, (3, 2, 3)),  # the second of two runs of a seed is unfinished
        (2, 2, 5, (3, 2, 3)),  # a seed that the baseline lacks counts for nobody
        (4, 4, 4, (5, 2, 5)),  # seeds beyond the stop do not count
        (5, 2, 5, (6, 2, 6)),
        (6, 6, 6, (6, 2, 6)),  # the largest number
    ],
)
def test_a_method_gets_seeds_until_its_interval_is_narrow_and_the_baseline_gets_those_of_all(
    experiment, nearest, bilinear, bicubic, expected
):
    counts = {"nearest": nearest, "bilinear": bilinear, "bicubic": bicubic}
    finish(experiment, {"bilinear": QUIET, "bicubic": NOISY}, counts)
    assert tuple(counts_of(required_seeds(experiment, RULE)).values()) == expected


def test_half_widths_equal_manual_calculation(experiment):
    finish(experiment, {"bilinear": QUIET, "bicubic": NOISY}, {"nearest": 6, "bilinear": 6, "bicubic": 6})
    for maximum, expected in enumerate(half_widths_by_hand(), start=2):
        required = required_seeds(experiment, replace(RULE, half_width=0.1, max_seeds=maximum))["bicubic"]
        assert (required.count, required.half_width) == (maximum, pytest.approx(expected, rel=1e-4))


def test_sign_and_size_of_a_difference_do_not_matter(experiment):
    counts = {"nearest": 4, "bilinear": 4, "bicubic": 4}
    required = []
    for k, change in enumerate((lambda value: value, lambda value: -value, lambda value: value + 20)):
        changed = replace(experiment, output=experiment.output / str(k))
        finish(changed, {"bilinear": list(map(change, QUIET)), "bicubic": list(map(change, NOISY))}, counts)
        required.append(counts_of(required_seeds(changed, RULE)))
    assert required[0] == required[1] == required[2]


def test_a_result_without_ap_ends_the_seeds_of_its_method(experiment):
    finish(experiment, {"bilinear": NOISY, "bicubic": NOISY}, {"nearest": 4, "bilinear": 4, "bicubic": 4})
    (run,) = [run for run in experiment.runs() if (run.method, run.seed) == ("bicubic", 2)]
    write_result(run, None)
    assert counts_of(required_seeds(experiment, RULE)) == {"nearest": 5, "bilinear": 5, "bicubic": 3}


@pytest.fixture
def training(experiment, monkeypatch):
    """Instead of training, runs get prepared results; a run in ``training.failing`` fails."""

    record = SimpleNamespace(runs=[], failing={})

    def train_run(fabric, preset, data, run):
        record.runs.append(str(run))
        if error := record.failing.get(str(run)):
            raise error
        write_result(run, ap_of(run, {"bilinear": QUIET, "bicubic": NOISY}))

    def unfinished(fabric, settings):
        return [run for run in settings.runs() if not is_finished(run.folder)]

    monkeypatch.setattr(execution, "train_run", train_run)
    monkeypatch.setattr(execution, "check_experiment", unfinished)
    return record


ALL_RUNS = [
    *("nearest seed 0", "bilinear seed 0", "bicubic seed 0", "nearest seed 1", "bilinear seed 1", "bicubic seed 1"),
    *(f"{method} seed {seed}" for seed in range(2, 6) for method in ("nearest", "bicubic")),
]


def test_seeds_are_added_to_the_wide_methods_and_the_baseline(fabric, experiment, training, capsys):
    settings, failures = train_until_narrow(fabric, experiment, RULE)
    assert (training.runs, failures) == (ALL_RUNS, {})
    assert [str(run) for run in settings.runs()] == ALL_RUNS
    text = capsys.readouterr().out
    assert "seeds of each method: nearest 3, bilinear 2 (half-width 0.64), bicubic 3 (half-width 19.06)\n" in text
    assert describe_rule(settings, RULE).endswith("; not reached by bicubic 6 (half-width 1.00)")
    training.runs.clear()
    assert train_until_narrow(fabric, experiment, RULE) == (settings, {})
    assert training.runs == []


@pytest.mark.parametrize("interrupted", [1, 4, 7, 9])
def test_an_interrupted_comparison_reaches_the_runs_of_an_uninterrupted_one(fabric, experiment, training, interrupted):
    training.failing[ALL_RUNS[interrupted]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train_until_narrow(fabric, experiment, RULE)
    training.failing.clear()
    settings, failures = train_until_narrow(fabric, experiment, RULE)
    assert training.runs == [*ALL_RUNS[: interrupted + 1], *ALL_RUNS[interrupted:]]
    assert ([str(run) for run in settings.runs()], failures) == (ALL_RUNS, {})


@pytest.mark.parametrize(
    ("failing", "count"),
    [
        ("bicubic seed 3", 10),  # no seeds are added to its method
        ("bilinear seed 0", 14),  # others get theirs
        ("bicubic seed 0", 6),  # the seeds to begin with are all trained
        ("nearest seed 2", 8),  # of the baseline: none are added at all
    ],
)
def test_a_failed_run_ends_the_seeds_of_its_method_until_it_is_trained(fabric, experiment, training, failing, count):
    training.failing[failing] = RuntimeError("loss became nan")
    _, failures = train_until_narrow(fabric, experiment, RULE)
    assert list(failures) == [failing]
    assert training.runs == ALL_RUNS[:count]  # each is tried once
    training.failing.clear()
    settings, failures = train_until_narrow(fabric, experiment, RULE)
    assert ([str(run) for run in settings.runs()], failures) == (ALL_RUNS, {})


@pytest.mark.parametrize(
    ("methods", "initial_seeds", "fact"),
    [(1, 2, "nearest is the only method"), (2, 1, "--seeds 1"), (2, 7, "--max-seeds 6")],
)
def test_a_rule_needs_two_methods_and_two_seeds(methods, initial_seeds, fact):
    names = ("nearest", "bilinear")[:methods]
    with pytest.raises(UserError, match=fact):
        require_usable(replace(RULE, initial_seeds=initial_seeds), [Method(name, name) for name in names])


def test_the_comparison_names_the_rule(fabric, finished, tmp_path):
    shutil.copytree(finished.output, tmp_path / "out")
    arguments = (fabric, finished.preset, finished.data, finished.methods, tmp_path / "out")
    with pytest.raises(UserError, match="--seeds 1"):
        compare(*arguments, until=50.0)
    comparison = compare(*arguments, seeds=(0, 1), until=50.0, max_seeds=3).comparison
    assert [len(method.runs) for method in comparison.methods] == [2, 2]
    assert comparison.settings["added seeds"].startswith("added to 2, up to 3, until ")
    assert "at most 50," in (tmp_path / "out" / "report.html").read_text()
