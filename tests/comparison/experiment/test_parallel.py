import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from afictl import UserError
from afictl.comparison import Method
from afictl.comparison.experiment import parallel
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.parallel import require_devices, train_in_parallel, train_in_turn
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.run_records import read_config
from afictl.weights import read_checkpoint
from tests.helpers.full_disk import needs_dev_full
from tests.helpers.program import SECONDS, program
from tests.helpers.tiny_runs import SMALL, set_flags

NEAREST, BILINEAR = Method("nearest", "nearest"), Method("bilinear", "bilinear")


@pytest.fixture
def killed_worker(monkeypatch):
    """The first worker kills itself, as the system does when memory runs out."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    start, commands = subprocess.Popen, [[sys.executable, "-c", kill]]
    monkeypatch.setattr(
        parallel.subprocess, "Popen", lambda words, **options: start(commands.pop() if commands else words, **options)
    )


@pytest.mark.usefixtures("killed_worker")
def test_parallel_runs_equal_sequential_runs_also_beside_one_that_is_killed(
    fabric, preset, shapes_dir, tmp_path, capfd
):
    methods = (NEAREST, Method("carafe", "carafe"))
    sequential = ExperimentSettings(preset, shapes_dir, tmp_path / "a", methods)
    concurrent = ExperimentSettings(preset, shapes_dir, tmp_path / "b", (BILINEAR, *methods))
    assert train_experiment(fabric, sequential) == {}
    capfd.readouterr()
    failures = train_experiment(fabric, concurrent, parallel_runs=2)
    assert list(failures) == ["bilinear seed 0"]
    assert "SIGKILL" in failures["bilinear seed 0"]
    for pair in zip(sequential.runs(), concurrent.runs()[1:], strict=True):
        folder = pair[1].folder
        assert (folder / "result.json").is_file()
        expected, tensors = (read_checkpoint(run.folder / "last.safetensors").tensors for run in pair)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert "step 2/2" in folder.with_name("seed0.txt").read_text()
    text = capfd.readouterr().out
    assert "carafe seed 0: done in" in text
    assert "2 runs at a time, threads of each: " in text
    assert read_config(folder / "config.yaml").hardware.threads == max(1, torch.get_num_threads() // 2)
    assert "bilinear seed 0" in text
    assert "step 2/2" not in text


@pytest.mark.usefixtures("killed_worker")
def test_a_run_in_turn_whose_worker_is_killed_ends_alone(fabric, preset, shapes_dir, tmp_path, capfd):
    settings = ExperimentSettings(preset, shapes_dir, tmp_path / "out", (NEAREST, BILINEAR))
    failures = train_experiment(fabric, settings, parallel_runs=1)
    assert list(failures) == ["nearest seed 0"]
    assert "SIGKILL" in failures["nearest seed 0"]
    assert (tmp_path / "out" / "bilinear" / "seed0" / "result.json").is_file()
    text = capfd.readouterr().out
    assert "nearest seed 0" in text
    assert "step 2/2" in text


def train_missing(preset, data, output, names):
    """Train runs whose interpolators do not exist, and return their failures."""
    methods = tuple(Method(name, "missing") for name in names)
    settings = ExperimentSettings(preset, data, output, methods)
    return train_in_parallel(settings, settings.runs(), 2, "32-true")


@needs_dev_full
def test_the_error_of_each_worker_is_returned(preset, shapes_dir, tmp_path, monkeypatch):
    """Of one that cannot be started, one that cannot print its error, and one that fails."""
    log = tmp_path / "out" / "a" / "seed0.txt"
    log.mkdir(parents=True)  # cannot be opened for writing, as on a full disk
    log_file = parallel._log_file
    monkeypatch.setattr(parallel, "_log_file", lambda r: Path("/dev/full") if r.method == "b" else log_file(r))
    failures = train_missing(preset, shapes_dir, tmp_path / "out", "abc")
    assert failures.keys() == {"a seed 0", "b seed 0", "c seed 0"}
    for method, reason in {"a": str(log), "b": "/dev/full", "c": "missing"}.items():
        assert reason in failures[f"{method} seed 0"]


def test_workers_that_do_not_stop_are_killed_and_the_cause_is_raised(monkeypatch):
    monkeypatch.setattr(parallel, "_TIMEOUT_SECONDS", 0.1)
    command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(600)"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def interrupt():
        with parallel._workers() as workers:
            workers.append(parallel._Worker(None, 0, process, process.stdout, None))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_workers_of_a_killed_comparison_save_their_state(shapes_dir, tmp_path):
    """SIGKILL leaves the comparison no time to interrupt them."""
    words = ["compare", "--preset", "faster-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--output", tmp_path / "out"]
    words += set_flags([*SMALL, "train.steps=4000", "train.eval_every=4000"])
    words += ["--interpolators", "nearest", "--devices", "2", "--spread"]
    run = tmp_path / "out" / "nearest" / "seed0"
    with program(words, tmp_path / "output.txt") as command:
        command.wait_for(run / "metrics.jsonl")
    deadline = time.monotonic() + SECONDS
    while not (run / "state.pt").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_error_of_a_run_in_turn_is_printed_once(fabric, preset, shapes_dir, tmp_path, capfd):
    settings = ExperimentSettings(preset, shapes_dir, tmp_path / "out", (Method("a", "missing"),))
    failures = train_in_turn(settings, settings.runs(), "32-true", print)
    assert "missing" in failures["a seed 0"]
    output, errors = capfd.readouterr()
    assert (output.count("missing"), errors) == (1, "")


def test_sigterm_interrupts_the_workers():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), parallel._workers():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(("devices", "count"), [("auto", 1), ("3", 3)])
def test_devices_without_gpus_are_processes(monkeypatch, devices, count):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert require_devices(devices) == count


@pytest.mark.parametrize("devices", ["0", "x", "5"])
def test_unavailable_devices_are_rejected(monkeypatch, devices):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(UserError, match=f"--devices {devices}"):
        require_devices(devices)


def test_every_worker_gets_a_separate_gpu_and_an_equal_number_of_threads(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert [parallel._device_variables(device, 2) for device in (0, 1)] == [
        {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "GPU-a"},
        {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "GPU-b"},
    ]
