"""Time of computations on any device."""

import time
from collections.abc import Callable

import torch


def synchronized_time(device: torch.device) -> float:
    """Seconds of a monotonic clock after all queued kernels of ``device`` have finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call of ``run``, which computes on ``device``."""
    start = synchronized_time(device)
    run()
    return synchronized_time(device) - start
