"""Log lines of a training without a terminal."""

import re
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from afictl.training import logger as module


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [
        ((1, 2, 3, 4), []),
        ((1, 40, 50, 60), ["2 of 4", "4 of 4"]),
        ((1, 2, 3, 40), ["4 of 4"]),
    ],
)
def test_a_long_evaluation_is_logged_up_to_its_last_image(monkeypatch, tmp_path, seconds, counts):
    messages = []
    run = SimpleNamespace(folder=tmp_path, console=Console(quiet=True), log=messages.append, close=lambda: None)
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)
    logger = module.TrainingLogger(run, steps=1, start=0, device=torch.device("cpu"))
    for done, now in enumerate(seconds, start=1):
        monkeypatch.setattr(module.time, "perf_counter", lambda now=now: float(now))
        logger.log_evaluation(done, len(seconds))
    assert [re.search(r"\d of \d", message)[0] for message in messages] == counts
    logger.reset_interval()
    logger.log_evaluation(4, 4)
    assert len(messages) == len(counts)  # the next evaluation is short


@pytest.mark.parametrize("seconds_per_step", [1, 40])
def test_the_recorded_steps_do_not_depend_on_time(monkeypatch, tmp_path, seconds_per_step):
    lines, steps = [], []
    run = SimpleNamespace(
        folder=tmp_path,
        console=Console(quiet=True),
        log=lines.append,
        log_metrics=lambda step, values: steps.append(step),
        close=lambda: None,
    )
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)
    logger = module.TrainingLogger(run, steps=30, start=0, device=torch.device("cpu"))
    for step in range(1, 31):
        monkeypatch.setattr(module.time, "perf_counter", lambda now=step * seconds_per_step: float(now))
        logger.log_step(step, {"loss": 1.0}, rate=0.1)
    assert steps == [*range(3, 31, 3)]
    assert len(lines) == (10 if seconds_per_step == 1 else 30)
