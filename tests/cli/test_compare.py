import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from afictl import comparison, training
from afictl.cli import compare as module
from afictl.comparison.pipeline import ComparisonOutcome
from tests.helpers.tiny_runs import SMALL

TINY = "faster-rcnn-r18-fpn-tiny"


@pytest.fixture
def run(afictl, monkeypatch):
    """The command, with what it would have compared instead of comparing."""
    seen = []
    monkeypatch.setattr(module, "_compare_runs", lambda *arguments, **named: seen.append((*arguments, named)))
    monkeypatch.setattr(module, "_train", lambda *arguments, **named: seen.append((arguments, named)))

    def call(*words):
        code, _, errors = afictl("compare", *words)
        return code, errors, seen

    return call


@pytest.mark.parametrize(
    "words",
    [
        ("--runs", "A", "B", "C"),
        ("--runs", "A", "--runs", "B", "C"),
        ("--runs", "A,B,C"),
        ("--runs", "A", "--baseline", "afi", "B", "C"),
    ],
)
def test_runs_in_any_spelling(run, words):
    code, _, seen = run(*words)
    assert code == 0
    assert seen[0][0] == [Path("A"), Path("B"), Path("C")]


def test_a_folder_with_a_comma_in_its_name_is_one_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr0,1").mkdir()
    assert run("--runs", "lr0,1", "B")[2][0][0] == [Path("lr0,1"), Path("B")]


def test_runs_with_names(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    *_, seen = run("--runs", " deep =A,B", "lr=0.1", "low rate=lr=0.1/C")
    folders, *_, named = seen[0]
    assert folders == [Path("A"), Path("B"), Path("lr=0.1"), Path("lr=0.1/C")]
    assert named["names"] == {Path("A"): "deep", Path("lr=0.1/C"): "low rate"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("A",), "'A' belongs to no option; runs that exist are compared with --runs A ..."),
        ((), "give --preset and --data, or --runs"),
        (("--preset", TINY), "give --data"),
        (
            ("--runs", "A", "--preset", TINY, "--seeds", "3"),
            "--preset, --seeds have no effect with --runs, whose runs are trained",
        ),
        (("--only-cost", "--preset", TINY, "--seeds", "3"), "--seeds has no effect with --only-cost"),
        (
            ("--only-cost", "--preset", TINY, "--backbone-weights", "W"),
            "--backbone-weights has no effect with --only-cost",
        ),
        (("--runs", "nowhere"), "--runs nowhere: no run folder"),
        (("--runs", "mine=nowhere"), "--runs nowhere: no run folder"),
        (("--runs", "=A"), "--runs =A: write NAME=RUN, with a name and a run"),
        (("--runs", "a=", "B"), "--runs a=: write NAME=RUN, with a name and a run"),
        (("--runs", "a=A", "b=A"), "--runs: A is given twice"),
        (("--runs", "A", "--devices", "2", "--seed", "0"), "--seed, --devices have no effect with --runs"),
        (("--runs", "A", "--only-cost"), "--only-cost has no effect with --runs"),
        (("--only-cost", "--preset", TINY, "--nodes", "1"), "--nodes has no effect with --only-cost"),
    ],
)
def test_what_does_not_go_together(afictl, words, message):
    code, _, errors = afictl("compare", *words)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_seeds_count_from_the_first(run):
    _, _, seen = run("--preset", TINY, "--data", "D", "--seeds", "3", "--seed", "5")
    assert list(seen[0][1]["seeds"]) == [5, 6, 7]


def test_spreading_over_machines_is_refused(afictl):
    code, _, errors = afictl("compare", "--preset", TINY, "--data", ".", "--spread", "--nodes", "2")
    assert code == 2
    assert "one machine" in errors


def test_prices_alone_are_printed_and_written(afictl, tmp_path):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    words = ["--only-cost", "--preset", TINY, "--interpolators", "nearest,afi", "--output", tmp_path / "out"]
    code, text, _ = afictl("compare", *map(str, words), *settings)
    assert code == 0
    assert "peak" in text
    assert "pixels (width" in text
    assert text.splitlines()[-2:] == [
        f"tables: {tmp_path / 'out' / 'comparison.json'}, {tmp_path / 'out' / 'comparison.csv'}",
        f"report: {tmp_path / 'out' / 'report.html'}",
    ]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["comparison.csv", "comparison.json", "report.html"]
    prices = json.loads((tmp_path / "out" / "comparison.json").read_text())["conditions"]["prices"]
    assert prices == "of an image of noise, as large as evaluation allows, on cpu, in 32-true"


def test_prices_do_not_replace_a_comparison(afictl, tmp_path):
    (tmp_path / "compare.json").write_text("{}")
    code, _, errors = afictl("compare", "--only-cost", "--preset", TINY, "--output", str(tmp_path))
    assert code == 2
    assert "choose another --output" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]


def test_existing_runs_are_measured_in_the_precision_that_is_asked_for(monkeypatch, tmp_path):
    seen = []

    def compare_runs(fabric, folders, output, **further):
        seen.append(fabric.strategy.precision.precision)

    monkeypatch.setattr(comparison, "compare_runs", compare_runs)
    monkeypatch.setattr(module, "_show", lambda *_: None)
    module._compare_runs([Path("A")], tmp_path, "bf16-mixed")
    assert seen == ["bf16-mixed"]


def test_a_run_that_failed_ends_in_code_1_and_the_rest_is_told(afictl, tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(
        comparison, "compare", lambda *_, **__: ComparisonOutcome(None, {"afi seed 0": "loss became nan"})
    )
    words = ("--preset", TINY, "--data", shapes, "--interpolators", "nearest,afi", "--output", tmp_path / "out")
    code, _, errors = afictl("compare", *words)
    assert (code, errors) == (1, "error: 1 run failed, the same command tries again: afi seed 0: loss became nan\n")
    assert "1: some failed" in " ".join(afictl("compare", "--help")[1].split())


def test_one_alone_is_told_to_be_compared_with_nothing(afictl, tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: ComparisonOutcome(None))
    words = ("--preset", TINY, "--data", shapes, "--interpolators", "nearest", "--output", tmp_path / "out")
    expected = "nearest alone: it is trained and measured, and compared with nothing\n"
    assert afictl("compare", *words) == (0, expected, "")
    settings = [word for setting in SMALL for word in ("--set", setting)]
    _, text, _ = afictl("compare", "--only-cost", "--preset", TINY, "--interpolators", "nearest", *settings)
    assert text.splitlines()[-1] == "nearest alone: nothing is compared"


def test_a_default_folder_that_cannot_be_made_is_told_before_runs_are_measured(afictl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    monkeypatch.setattr(comparison, "compare_runs", lambda *_, **__: pytest.fail("too late"))
    code, _, errors = afictl("compare", "--runs", "A", "B")
    reason = f"nothing can be written in {tmp_path / 'runs'} (Not a directory)"
    assert (code, errors) == (2, f"error: --output runs/compare-runs: {reason}\n")


def test_one_alone_is_told_by_the_first_process_only(tmp_path, shapes, monkeypatch, capsys):
    further = SimpleNamespace(print=lambda *_: None, is_global_zero=False)
    monkeypatch.setattr(training, "launch", lambda *_: further)
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: ComparisonOutcome(None))
    module._train(TINY, [], "nearest", tmp_path, hardware=("2", 1, "32-true"), spread=False, data=shapes)
    assert capsys.readouterr().out == ""
