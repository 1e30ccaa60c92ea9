"""``--precision auto``: the faster of fp32 and bf16, measured on the device.

Flags of a processor do not tell: where bfloat16 is emulated it computes, but up to forty times slower than float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from afictl.run_folder import CONFIG, has_records
from afictl.run_records import read_config
from afictl.timing import seconds_of

AUTO = "auto"
"""Value of ``--precision`` that measures."""
FP32, BF16 = "32-true", "bf16-mixed"
"""Fabric's names."""

_CHANNELS = {"cpu": 64}
_CHANNELS_OF_GPU = 256
_SIDES = (32, 64, 128, 256)
"""Heights and widths of the map, tried in this order."""
_MIN_SECONDS = 0.004
"""A shorter pass measures the start of kernels rather than their work."""
_MAX_PASSES, _BUDGET_SECONDS = 3, 0.1


class PrecisionTimes(NamedTuple):
    """Seconds of a forward and backward pass of a 3x3 convolution in each precision."""

    fp32: float
    bf16: float
    """Infinite where the device does not compute in it."""

    @property
    def faster(self) -> str:
        """The precision of the shorter time; of equal ones that of fp32."""
        return BF16 if self.bf16 < self.fp32 else FP32

    @property
    def note(self) -> str:
        """A log line."""
        bf16 = f"{1000 * self.bf16:.3g} ms" if math.isfinite(self.bf16) else "not supported"
        return (
            f"precision {self.faster}, the faster here: a 3x3 convolution, forward and backward, takes"
            f" {1000 * self.fp32:.3g} ms in {FP32}, in {BF16} {bf16}"
        )


def measure_precision(device: torch.device) -> PrecisionTimes:
    """Time a 3x3 convolution on a map large enough for ``device``, in a fraction of a second.

    No random number of the global generators is drawn.
    """
    channels = _CHANNELS.get(device.type, _CHANNELS_OF_GPU)
    for side in _SIDES:
        fp32, bf16 = (_convolution(device, channels, side, bf16=value) for value in (False, True))
        fp32()  # creates the kernels
        if (seconds := seconds_of(fp32, device)) >= _MIN_SECONDS:
            break
    try:
        bf16()
    except RuntimeError:  # the device or its driver has no such kernel
        return PrecisionTimes(seconds, math.inf)
    times: list[tuple[float, float]] = []
    while len(times) < _MAX_PASSES and sum(map(sum, times)) < _BUDGET_SECONDS:  # in turns, as other load affects both
        times.append((seconds_of(fp32, device), seconds_of(bf16, device)))
    return PrecisionTimes(*map(min, zip(*times, strict=True)))


def precision_of_runs(precision: str, folders: Iterable[Path]) -> str:
    """``precision``, but for ``auto`` the one that the first run with records in ``folders`` began with.

    Raises:
        UserError: its ``config.yaml`` is unreadable.
    """
    if precision != AUTO:
        return precision
    runs = (folder / CONFIG for folder in folders if has_records(folder) and (folder / CONFIG).is_file())
    return next((recorded for file in runs if (recorded := read_config(file).hardware.precision)), AUTO)


def _convolution(device: torch.device, channels: int, side: int, *, bf16: bool) -> Callable[[], None]:
    """A forward and backward pass on one map (1, channels, side, side) under autocast with ``bf16``."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, channels, side, side), (channels, channels, 3, 3))
    maps, weight = (torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes)

    def run() -> None:
        with torch.enable_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = F.conv2d(maps, weight, padding=1)
        torch.autograd.grad(output, (maps, weight), torch.ones_like(output))

    return run
