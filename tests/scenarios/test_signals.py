"""A training that receives a signal."""

import os
import signal

import pytest
import torch

from tests.helpers.program import program
from tests.helpers.tiny_runs import SMALL, set_flags


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_to_the_whole_process_group_saves_the_state(shapes_dir, tmp_path, number):
    run = tmp_path / "run"
    words = ["finetune", "--preset", "faster-rcnn-r18-fpn-tiny", "--interpolator", "nearest", "--data", shapes_dir]
    words += set_flags((*SMALL, "train.steps=10000", "train.eval_every=10000", "loader.workers=2"))
    with program([*words, "--output", run], tmp_path / "output.txt") as training:
        training.wait_for(run / "metrics.jsonl")
        os.killpg(training.pid, number)
        code, output = training.end()
    assert code == 130, output
    step = torch.load(run / "state.pt", weights_only=True)["step"]
    assert step >= 20
    assert f"step {step}," in output
