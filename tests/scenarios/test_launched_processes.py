"""Several processes of one run: their launchers, signals, and the loss of a process or of an image."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.helpers.program import program
from tests.helpers.tiny_runs import SMALL, set_flags

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "afictl"]
PLAIN = [sys.executable, "-m", "afictl"]
SECONDS = 120


def command(launcher, data, folder, *flags):
    steps = (*SMALL, "train.steps=200", "train.eval_every=200", "train.checkpoint_every=200")
    words = [*launcher, "finetune", "--preset", "faster-rcnn-r18-fpn-tiny", "--interpolator", "nearest"]
    return [*map(str, (*words, "--data", data, "--output", folder, *flags)), *set_flags(steps)]


@contextmanager
def training(words, folder):
    """A process that has logged its first record; its whole session is killed at the end."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not (folder / "metrics.jsonl").is_file():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def saved_step(folder):
    return torch.load(folder / "state.pt", weights_only=True)["step"]


def test_processes_of_torchrun_train_one_run_and_a_signal_saves_it(shapes_dir, tmp_path):
    folder = tmp_path / "run"
    with training(command(TORCHRUN, shapes_dir, folder), folder) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
    assert f"stopped after step {saved_step(folder)}, which is saved" in output
    assert output.count("--resume continues") == 1
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == len(set(steps))


@pytest.mark.slow
def test_an_image_that_is_lost_stops_all_processes_after_a_saved_step(shapes_dir, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shapes_dir, data)
    images = list(data.glob("train*/*"))
    assert images
    with training(command(PLAIN, data, folder, "--devices", "2"), folder) as process:
        for file in images:
            file.unlink()
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert any(file.name in error for file in images)
    assert f"stopped after step {saved_step(folder)}, which is saved" in output


@pytest.mark.slow
def test_a_killed_process_is_named_in_one_line(shapes_dir, tmp_path):
    folder = tmp_path / "run"
    with training(command(PLAIN, shapes_dir, folder, "--devices", "2"), folder) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("needs Linux's list of children")
        # The child of a thread is listed under that thread; loader.workers is 0.
        (second,) = children.read_text().split()
        os.kill(int(second), signal.SIGKILL)
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: process 1: it was ended by SIGKILL")
    assert "nothing is saved yet" in output


def test_a_wait_for_another_machine_is_told_and_ends(shapes_dir, tmp_path):
    port = free_port()
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "AFICTL_JOIN_TIMEOUT": "2"}
    words = command([], shapes_dir, tmp_path / "run", "--nodes", "2", "--devices", "1")
    with program(words, tmp_path / "output.txt", **variables) as first:
        code, output = first.end()
    assert code == 2, output
    waiting, error = output.splitlines()
    assert waiting.startswith(f"waiting at 127.0.0.1:{port} for 1 of 2 machines")
    assert error.startswith(f"error: waited 2 s at 127.0.0.1:{port}")
    assert "AFICTL_JOIN_TIMEOUT" in error
    assert not (tmp_path / "run").exists()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])
