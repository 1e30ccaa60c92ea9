"""``--precision auto``: the measurement, its choice and its place in the log."""

import math

import pytest
import torch

from afictl.comparison.cost.cost_list import describe_measurement
from afictl.comparison.experiment.preconditions import precision_of_comparison
from afictl.launchers import LaunchedProcess
from afictl.run_records import read_config
from afictl.training import HardwareSettings, hardware, launch_single, precision
from afictl.training.precision import PrecisionTimes, measure_precision, precision_of_runs
from tests.helpers.ranks import on_ranks
from tests.helpers.tiny_runs import set_flags

SLOWER, FASTER = PrecisionTimes(fp32=0.0061, bf16=0.0832), PrecisionTimes(fp32=0.004, bf16=0.001)
OUTCOMES = [(SLOWER, "32-true"), (FASTER, "bf16-mixed")]
CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """A function that sets the times that are measured."""
    return lambda times: monkeypatch.setattr(hardware, "measure_precision", lambda device: times)


@pytest.mark.parametrize(
    ("times", "faster", "texts"),
    [
        (SLOWER, "32-true", ("6.1 ms in 32-true", "in bf16-mixed 83.2 ms")),
        (FASTER, "bf16-mixed", ("4 ms in 32-true", "in bf16-mixed 1 ms")),
        (PrecisionTimes(0.004, 0.004), "32-true", ()),
        (PrecisionTimes(0.004, math.inf), "32-true", ("in bf16-mixed not supported",)),
    ],
)
def test_the_faster_precision_is_chosen_and_both_times_are_named(times, faster, texts):
    assert times.faster == faster
    assert times.note.startswith(f"precision {faster}, ")
    assert all(text in times.note for text in texts)
    assert "\n" not in times.note


def test_a_measurement_leaves_the_random_numbers():
    state = torch.get_rng_state()
    times = measure_precision(CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < times.fp32 < math.inf > times.bf16 > 0


def test_a_device_without_bfloat16_gets_fp32(monkeypatch):
    def convolution(device, channels, side, *, bf16):
        def run():
            if bf16:
                raise RuntimeError("not implemented for 'BFloat16'")

        return run

    monkeypatch.setattr(precision, "_convolution", convolution)
    assert measure_precision(CPU).faster == "32-true"


@pytest.mark.parametrize(("times", "faster"), OUTCOMES)
def test_a_launch_has_the_faster_precision(measured, times, faster):
    measured(times)
    fabric = launch_single("auto")
    assert fabric.strategy.precision.precision == faster
    assert fabric.precision_note == times.note
    assert describe_measurement(fabric).endswith(f"in {faster}")  # in the tables of a comparison


def test_nothing_is_measured_unless_asked_for(monkeypatch):
    monkeypatch.setattr(hardware, "measure_precision", lambda device: pytest.fail("measured"))
    assert launch_single("bf16-mixed").precision_note == ""


def test_rank_zero_decides_for_all(tmp_path):
    on_ranks(2, write_choice, tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"bf16-mixed {FASTER.note}"] * 2


def write_choice(fabric, folder):
    rank = fabric.global_rank
    hardware.measure_precision = lambda device: (FASTER, SLOWER)[rank]
    settings = HardwareSettings("2", precision="auto")
    process = LaunchedProcess("test", rank, 2, rank, 2, 1, 0, "127.0.0.1", 0)
    chosen = hardware._launch_with_precision(hardware._fabric(settings, process), settings, process)
    (folder / str(rank)).write_text(f"{chosen.strategy.precision.precision} {chosen.precision_note}")


def test_a_resumed_run_keeps_the_precision_that_it_recorded(measured, afictl, tmp_path, shapes_dir):
    run = tmp_path / "run"
    arguments = ("--preset", "faster-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--interpolator", "nearest")
    arguments = ("finetune", *arguments, "--output", run, "--precision", "auto", *set_flags())
    measured(SLOWER)
    assert afictl(*arguments)[0] == 0
    lines = (run / "log.txt").read_text().splitlines()
    assert lines.count(SLOWER.note) == 1
    assert read_config(run / "config.yaml").hardware.precision == "32-true"
    measured(FASTER)
    code, output, _ = afictl(*arguments, "--resume")
    assert (code, FASTER.note in output) == (0, False)
    assert "resumed at step 4" in output


def test_auto_is_measured_without_a_run(tmp_path):
    assert precision_of_runs("auto", [tmp_path]) == "auto"
    (tmp_path / "config.yaml").write_text("hardware: {precision: bf16-mixed, processes: 1}\n")
    assert precision_of_runs("auto", [tmp_path]) == "auto"  # it failed before its first record
    (tmp_path / "state.pt").write_bytes(b"")
    assert precision_of_runs("auto", [tmp_path / "absent", tmp_path]) == "bf16-mixed"
    assert precision_of_runs("32-true", [tmp_path]) == "32-true"


def test_a_comparison_keeps_the_precision_that_it_recorded(tmp_path):
    assert precision_of_comparison("auto", tmp_path) == "auto"
    record = '{"preset": {}, "data": "", "weights": "", "backbone_weights": "", "precision": "bf16-mixed"}'
    (tmp_path / "compare.json").write_text(record)
    assert precision_of_comparison("auto", tmp_path) == "bf16-mixed"
    assert precision_of_comparison("32-true", tmp_path) == "32-true"
