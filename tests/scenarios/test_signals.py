"""A training that receives a signal."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.helpers.tiny_runs import SMALL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_saves_the_state(shapes_dir, tmp_path, number):
    settings = (*SMALL, "train.steps=10000", "train.eval_every=10000", "loader.workers=2")
    command = [sys.executable, "-m", "afictl", "finetune", "--preset", "faster-rcnn-r18-fpn-tiny"]
    command += ["--data", shapes_dir, "--output", tmp_path / "run"]
    command += [word for setting in settings for word in ("--set", setting)]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        records = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not records.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            os.killpg(process.pid, number)
            output, _ = process.communicate(timeout=60)
        except BaseException:
            process.kill()  # or the end of the block would wait for it
            raise
    assert process.returncode == 130, output
    step = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"]
    assert step >= 20
    assert f"step {step}," in output
