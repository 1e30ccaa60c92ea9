"""Time on devices that work on their own."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Seconds, once all work given to ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
