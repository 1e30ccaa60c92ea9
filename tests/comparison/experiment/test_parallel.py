import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from afictl import UserError
from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.parallel import _Worker, _workers, require_devices, train_in_parallel
from afictl.comparison.experiment.specification import ExperimentSettings, Method
from afictl.weights import read_checkpoint
from tests.helpers.full_disk import needs_dev_full
from tests.helpers.tiny_runs import SMALL


def test_cells_side_by_side_equal_cells_one_after_another(fabric, preset, shapes_dir, tmp_path, capfd):
    methods = (Method("nearest", "nearest"), Method("carafe", "carafe"))
    one, two = (ExperimentSettings(preset, shapes_dir, tmp_path / name, methods) for name in ("one", "two"))
    assert train_experiment(fabric, one) == {}
    assert train_experiment(fabric, two, spread=2) == {}
    for ours, theirs in zip(one.jobs(), two.jobs(), strict=True):
        assert is_finished(theirs.folder)
        left, right = (read_checkpoint(job.folder / "last.safetensors").tensors for job in (ours, theirs))
        assert all(torch.equal(left[name], right[name]) for name in left)
        assert "step 2/2" in theirs.folder.with_name("seed0.txt").read_text()
    assert "carafe seed 0: done in" in capfd.readouterr().out


def test_a_cell_that_fails_is_told_with_its_reason(preset, shapes_dir, tmp_path):
    grid = ExperimentSettings(preset, shapes_dir, tmp_path / "out", (Method("mine", str(tmp_path / "gone")),))
    failures = train_in_parallel(grid, grid.jobs(), 2, "32-true")
    assert list(failures) == ["mine seed 0"]
    assert "neither a kind" in failures["mine seed 0"]


def test_a_cell_that_cannot_start_does_not_stop_the_others(preset, shapes_dir, tmp_path):
    grid = ExperimentSettings(preset, shapes_dir, tmp_path / "out", (Method("a", "gone"), Method("b", "gone")))
    log = grid.jobs()[0].folder.with_name("seed0.txt")
    log.mkdir(parents=True)  # as little to be opened as on a full disk
    failures = train_in_parallel(grid, grid.jobs(), 2, "32-true")
    assert failures["a seed 0"] == f"{log}: Is a directory"
    assert "neither a kind" in failures["b seed 0"]


@needs_dev_full
def test_a_cell_whose_last_words_find_no_space_is_told_so(preset, shapes_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("afictl.comparison.experiment.parallel._log", lambda job: Path("/dev/full"))
    grid = ExperimentSettings(preset, shapes_dir, tmp_path / "out", (Method("a", "gone"),))
    failures = train_in_parallel(grid, grid.jobs(), 2, "32-true")
    assert failures == {"a seed 0": "/dev/full: cannot be written to, as on a full disk"}


def test_processes_that_do_not_leave_are_ended_and_the_cause_is_told(monkeypatch):
    monkeypatch.setattr("afictl.comparison.experiment.parallel._PATIENCE", 0.1)
    command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(600)"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def interrupted():
        with _workers() as running:
            running.append(_Worker(None, 0, process, process.stdout))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_a_stopped_grid_stops_its_processes_which_save_and_go_on_later(shapes_dir, tmp_path):
    """By SIGKILL, which leaves the grid's own process no time to tell them."""
    words = ["compare", "--preset", "faster-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--output", tmp_path / "out"]
    words += [word for setting in (*SMALL, "train.steps=4000", "train.eval_every=4000") for word in ("--set", setting)]
    words += ["--interpolators", "nearest", "--devices", "2", "--spread"]
    grid = subprocess.Popen([sys.executable, "-m", "afictl", *map(str, words)], stdout=subprocess.DEVNULL)
    run = tmp_path / "out" / "nearest" / "seed0"
    try:
        wait_for(lambda: (run / "metrics.jsonl").is_file() or grid.poll() is not None)
    finally:
        grid.kill()
        grid.wait(timeout=60)
    wait_for(lambda: "which is saved" in (run / "log.txt").read_text())
    assert (run / "state.pt").is_file()


def wait_for(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(("text", "count"), [("auto", 1), ("3", 3)])
def test_devices_of_a_machine_without_gpus_are_processes(monkeypatch, text, count):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert require_devices(text) == count


@pytest.mark.parametrize(("text", "message"), [("0", "give a number"), ("x", "give a number"), ("5", "has 4")])
def test_devices_that_cannot_be_had(monkeypatch, text, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(UserError, match=message):
        require_devices(text)


def test_every_process_gets_a_gpu_of_its_own_and_a_share_of_the_threads(monkeypatch):
    from afictl.comparison.experiment.parallel import _place

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert [_place(device, 2) for device in (0, 1)] == [
        {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "GPU-a"},
        {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "GPU-b"},
    ]
