"""What a training shows beside a terminal."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from afictl.training import logger as module


@pytest.mark.parametrize(
    ("moments", "lines"),
    [
        ((1, 2, 3, 4), []),  # it is over before anybody waits
        ((1, 40, 50, 60), ["evaluated 2 of 4 images", "evaluated 4 of 4 images"]),
        ((1, 2, 3, 40), ["evaluated 4 of 4 images"]),
    ],
)
def test_the_last_line_of_an_evaluation_is_its_total(monkeypatch, tmp_path, moments, lines):
    messages = []
    run = SimpleNamespace(folder=tmp_path, console=Console(quiet=True), log=messages.append, close=lambda: None)
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)
    logger = module.TrainingLogger(run, steps=1, start=0, device=torch.device("cpu"))
    for done, moment in enumerate(moments, start=1):
        monkeypatch.setattr(module.time, "perf_counter", lambda moment=moment: float(moment))
        logger.log_evaluation(done, len(moments))
    assert messages == lines
    logger.reset_interval()
    logger.log_evaluation(4, 4)
    assert messages == lines  # the next one is short
