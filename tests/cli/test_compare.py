import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from afictl import comparison, training
from afictl.cli import compare as module
from afictl.comparison.pipeline import ComparisonOutcome
from afictl.training import hardware
from afictl.training.hardware import hardware_record
from afictl.training.precision import PrecisionTimes
from tests.helpers.tiny_runs import set_flags

TINY = "faster-rcnn-r18-fpn-tiny"


@pytest.fixture
def run(afictl, monkeypatch):
    """The command, which records the arguments of the comparison instead of comparing."""
    calls = []
    for name in ("_compare_existing", "_train"):
        monkeypatch.setattr(module, name, lambda *arguments: calls.append(arguments))

    def call(*words):
        code, _, errors = afictl("compare", *words)
        assert (code, errors) == (0, "")
        return calls[-1]

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
def test_runs_are_separated_by_spaces_commas_or_flags(run, words):
    folders, *_ = run(*words)
    assert folders == [Path("A"), Path("B"), Path("C")]


def test_a_folder_with_a_comma_in_its_name_is_one_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr0,1").mkdir()
    folders, *_ = run("--runs", "lr0,1", "B")
    assert folders == [Path("lr0,1"), Path("B")]


def test_runs_may_have_names(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    folders, names, _ = run("--runs", " deep =A,B", "lr=0.1", "low rate=lr=0.1/C")
    assert folders == [Path("A"), Path("B"), Path("lr=0.1"), Path("lr=0.1/C")]
    assert names == {Path("A"): "deep", Path("lr=0.1/C"): "low rate"}


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("A",), "--runs A"),
        ((), "--preset"),
        (("--preset", TINY), "--data"),
        (("--runs", "A", "--preset", TINY, "--seeds", "3"), "--preset, --seeds .*--runs"),
        (("--runs", "A", "--devices", "2", "--seed", "0"), "--seed, --devices .*--runs"),
        (("--runs", "A", "--only-cost"), "--only-cost .*--runs"),
        (("--only-cost", "--preset", TINY, "--seeds", "3"), "--seeds .*--only-cost"),
        (("--only-cost", "--preset", TINY, "--backbone-weights", "W"), "--backbone-weights .*--only-cost"),
        (("--only-cost", "--preset", TINY, "--interpolators", "x=nearst"), "--interpolators x=nearst: .*'nearest'"),
        (("--only-cost", "--preset", TINY, "--nodes", "1"), "--nodes .*--only-cost"),
        (("--only-cost", "--preset", TINY, "--until", "1"), "--until .*--only-cost"),
        (("--runs", "A", "--until", "1", "--max-seeds", "9"), "--until, --max-seeds .*--runs"),
        (("--preset", TINY, "--data", "D", "--max-seeds", "9"), "--max-seeds .*--until"),
        (("--preset", TINY, "--data", "D", "--until", "1", "--seeds", "1"), "--seeds 1: .*--until"),
        (("--preset", TINY, "--data", "D", "--until", "1", "--max-seeds", "4"), "--max-seeds 4: .* 5 seeds"),
        (("--only-cost", "--preset", TINY, "--tune", "train.lr=1,2"), "--tune .*--only-cost"),
        (("--preset", TINY, "--data", "D", "--tune", "train.lr=0.1"), "--tune .*two values"),
        (("--preset", TINY, "--data", "D", "--tune", "train.lr=1,2", "--set", "train={lr: 1}"), "--set .*--tune"),
        (
            ("--preset", TINY, "--data", "D", "--tune", "train.lr=1,2", "--set", "train.batch_size=1", "--scale-lr"),
            "--scale-lr.*--tune",
        ),
        (("--runs", "nowhere"), "--runs nowhere"),
        (("--runs", "net=nowhere"), "--runs nowhere"),
        (("--runs", "=A"), "--runs =A"),
        (("--runs", "a=", "B"), "--runs a="),
        (("--runs", "a=A", "b=A"), "--runs: A "),
    ],
)
def test_conflicting_flags_are_rejected(afictl, words, fact):
    code, _, errors = afictl("compare", *words)
    assert code == 2
    assert re.search(fact, errors)
    assert errors.count("\n") == 1


def test_seeds_are_counted_from_the_first_one(run):
    _, _, training, _ = run("--preset", TINY, "--data", "D", "--seeds", "3", "--seed", "5")
    assert list(training.seeds) == [5, 6, 7]
    assert training.until is None
    _, _, training, _ = run("--preset", TINY, "--data", "D")
    assert list(training.seeds) == [0]


def test_seeds_with_until_are_those_to_begin_with(run):
    _, _, training, _ = run("--preset", TINY, "--data", "D", "--until", "0.5", "--seed", "3")
    assert (list(training.seeds), training.until, training.max_seeds) == ([3, 4, 5, 6, 7], 0.5, 20)
    _, _, training, _ = run("--preset", TINY, "--data", "D", "--until", "0.5", "--seeds", "2", "--max-seeds", "9")
    assert (list(training.seeds), training.max_seeds) == ([0, 1], 9)


@pytest.mark.parametrize(
    ("words", "reason"), [(("--spread", "--nodes", "2"), "--ray ADDRESS"), (("--ray", "auto"), "without --spread")]
)
def test_machines_of_parallel_runs_are_those_of_ray(afictl, words, reason):
    code, _, errors = afictl("compare", "--preset", TINY, "--data", ".", *words)
    assert code == 2
    assert words[-2] in errors
    assert reason in errors


def test_costs_alone_are_printed_and_written(afictl, tmp_path):
    words = ["--only-cost", "--preset", TINY, "--interpolators", "nearest,afi", "--output", tmp_path / "out"]
    words += ["--precision", "32-true"]
    code, text, _ = afictl("compare", *map(str, words), *set_flags())
    assert code == 0
    assert "peak" in text
    assert "pixels (width" in text
    assert text.splitlines()[-2:] == [
        f"tables: {tmp_path / 'out' / 'comparison.json'}, {tmp_path / 'out' / 'comparison.csv'}",
        f"report: {tmp_path / 'out' / 'report.html'}",
    ]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["comparison.csv", "comparison.json", "report.html"]
    description = json.loads((tmp_path / "out" / "comparison.json").read_text())["conditions"]["prices"]
    assert re.search(r"noise.* cpu, .*32-true", description)


@pytest.mark.parametrize(
    ("words", "precision"),
    [((), "bf16-mixed"), (("--precision", "auto"), "bf16-mixed"), (("--precision", "32-true"), "32-true")],
)
def test_costs_alone_are_measured_in_the_faster_precision(afictl, monkeypatch, words, precision):
    precisions = []
    monkeypatch.setattr(hardware, "measure_precision", lambda device: PrecisionTimes(fp32=2.0, bf16=1.0))
    monkeypatch.setattr(comparison, "list_costs", lambda fabric, *_, **__: precisions.append(hardware_record(fabric)))
    monkeypatch.setattr(module, "_print", lambda *_: None)
    code, text, _ = afictl("compare", "--only-cost", "--preset", TINY, *words)
    assert (code, precisions[0]["precision"]) == (0, precision)
    assert text.count("precision bf16-mixed, ") == (precision == "bf16-mixed")


def test_costs_do_not_overwrite_a_comparison(afictl, tmp_path):
    (tmp_path / "compare.json").write_text("{}")
    code, _, errors = afictl("compare", "--only-cost", "--preset", TINY, "--output", str(tmp_path))
    assert code == 2
    assert f"{tmp_path}: " in errors
    assert "--output" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]


def test_existing_runs_are_measured_in_the_requested_precision(afictl, monkeypatch, tmp_path):
    precisions = []

    def compare_runs(fabric, folders, output, **options):
        precisions.append(fabric.strategy.precision.precision)

    monkeypatch.setattr(comparison, "compare_runs", compare_runs)
    monkeypatch.setattr(module, "_print", lambda *_: None)
    code, *_ = afictl("compare", "--runs", "A", "--output", str(tmp_path), "--precision", "bf16-mixed")
    assert (code, precisions) == (0, ["bf16-mixed"])


def test_a_failed_run_ends_in_exit_code_1(afictl, tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(
        comparison, "compare", lambda *_, **__: ComparisonOutcome(None, {"afi seed 0": "loss became nan"})
    )
    words = ("--preset", TINY, "--data", shapes, "--interpolators", "nearest,afi", "--output", tmp_path / "out")
    code, _, errors = afictl("compare", *words)
    assert code == 1
    assert errors.startswith("error: 1 run ")
    assert errors.endswith(": afi seed 0: loss became nan\n")
    assert "1: some failed" in " ".join(afictl("compare", "--help")[1].split())


def test_a_single_method_is_compared_with_nothing(afictl, tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: ComparisonOutcome(None))
    words = ("--preset", TINY, "--data", shapes, "--interpolators", "nearest", "--output", tmp_path / "out")
    code, text, errors = afictl("compare", *words)
    assert (code, errors) == (0, "")
    assert text.startswith("nearest is the only method: ")
    _, text, _ = afictl("compare", "--only-cost", "--preset", TINY, "--interpolators", "nearest", *set_flags())
    assert any(line.startswith("nearest is the only method: ") for line in text.splitlines())


def test_an_unwritable_default_folder_is_rejected_before_runs_are_measured(afictl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    monkeypatch.setattr(comparison, "compare_runs", lambda *_, **__: pytest.fail("too late"))
    code, _, errors = afictl("compare", "--runs", "A", "B")
    assert code == 2
    assert errors.startswith("error: --output runs/compare-runs: ")
    assert str(tmp_path / "runs") in errors


def test_only_rank_0_prints(afictl, tmp_path, shapes, monkeypatch):
    silent = {"print": lambda *_: None, "print_precision_note": lambda: None}
    rank_1 = SimpleNamespace(is_global_zero=False, world_size=2, **silent)
    monkeypatch.setattr(training, "launch", lambda *_: rank_1)
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: ComparisonOutcome(None))
    words = ("--preset", TINY, "--data", shapes, "--interpolators", "nearest", "--output", tmp_path / "out")
    assert afictl("compare", *words) == (0, "", "")
