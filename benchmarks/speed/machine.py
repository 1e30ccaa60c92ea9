"""The measured device: its number formats, and the highest rate of its convolutions."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from afictl.timing import seconds_of, synchronized_time

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""By precision."""
_MIN_RATIO = 0.5
"""Rate in bf16 divided by that in fp32, below which a device emulates bf16."""
_FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


class Convolution(NamedTuple):
    """A 3x3 convolution with as many output as input channels."""

    images: int
    channels: int
    height: int
    width: int

    @property
    def flops(self) -> int:
        """Two per multiply-add."""
        return 2 * 9 * self.images * self.channels**2 * self.height * self.width

    def __str__(self) -> str:
        return f"{self.images}x{self.channels}x{self.height}x{self.width}"


_PROBE = Convolution(1, 64, 32, 32)
_LARGE = {
    "cpu": (Convolution(1, 256, 100, 168), Convolution(1, 512, 64, 64)),
    "cuda": (Convolution(16, 256, 100, 168), Convolution(16, 512, 64, 64)),
}
_PASSES = 5
_WARM_UP = 0.3
"""Seconds, on a GPU."""
_MIN_SECONDS = 0.02
"""Of a pass on a GPU."""


class Roof(NamedTuple):
    """The highest measured rate of a convolution."""

    gflops: float
    """10^9 operations a second, two per multiply-add."""
    convolution: str
    """Shape of the input, and memory format."""


@dataclass(frozen=True)
class Machine:
    """A device and what is known of it."""

    device: torch.device
    roofs: Mapping[str, Roof]
    """By precision, those that the device computes in."""
    missing: Mapping[str, str]
    """Reason why a precision is not measured."""
    short: bool = False
    """Smallest workloads, one round: a test of the program, not a measurement."""

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """Context of a computation in ``precision``."""
        return nullcontext() if precision == "fp32" else torch.autocast(self.device.type, DTYPES[precision])

    def share(self, precision: str, flops: int, seconds: float) -> float:
        """Rate of ``flops`` in ``seconds``, divided by the roof of ``precision``."""
        return flops / seconds / 1e9 / self.roofs[precision].gflops


def measure_machine(device: torch.device, short: bool = False) -> Machine:
    """Find the precisions of ``device`` and the roof of each."""
    rates = {precision: _rate(_PROBE, dtype, "contiguous", device) for precision, dtype in DTYPES.items()}
    missing = {}
    if not rates["bf16"]:
        missing["bf16"] = "not measured: this device has no bf16"
    elif rates["bf16"] < _MIN_RATIO * rates["fp32"]:
        ratio = rates["fp32"] / rates["bf16"]
        missing["bf16"] = f"not measured: bf16 is emulated here, {ratio:.0f} times slower than fp32"
    roofs = {
        precision: _roof((_PROBE,) if short else _LARGE[device.type], dtype, device)
        for precision, dtype in DTYPES.items()
        if precision not in missing
    }
    return Machine(device, roofs, missing, short)


def _roof(convolutions: tuple[Convolution, ...], dtype: torch.dtype, device: torch.device) -> Roof:
    return max(
        Roof(_rate(convolution, dtype, name, device), f"{convolution}, {name}")
        for convolution in convolutions
        for name in _FORMATS
    )


@torch.no_grad()
def _rate(convolution: Convolution, dtype: torch.dtype, memory_format: str, device: torch.device) -> float:
    """10^9 operations a second in the fastest of several passes; 0 where the device does not compute in ``dtype``."""
    _, channels, *_ = convolution
    layout = _FORMATS[memory_format]
    module = nn.Conv2d(channels, channels, 3, padding=1).to(device, dtype).to(memory_format=layout)
    maps = torch.randn(*convolution).to(device, dtype).to(memory_format=layout)
    try:
        module(maps)
    except RuntimeError:  # no such kernel
        return 0.0
    repetitions = 1
    if device.type == "cuda":  # raises the clock of the GPU
        end = time.perf_counter() + _WARM_UP
        while (seconds := seconds_of(partial(module, maps), device)) and time.perf_counter() < end:
            repetitions = math.ceil(_MIN_SECONDS / seconds)
    rates = []
    for _ in range(_PASSES):
        start = synchronized_time(device)
        for _ in range(repetitions):
            module(maps)
        rates.append(repetitions * convolution.flops / (synchronized_time(device) - start))
    return max(rates) / 1e9


def describe_machine(machine: Machine) -> dict[str, object]:
    """Processor or GPU, threads and versions."""
    is_gpu = machine.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(machine.device) if is_gpu else _processor(),
        "instructions": None if is_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "devices": torch.cuda.device_count() if is_gpu else 1,
        "tf32": is_gpu and torch.backends.cudnn.allow_tf32,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "roofs": {precision: roof._asdict() for precision, roof in machine.roofs.items()},
        "missing": dict(machine.missing),
    }


def _processor() -> str:
    """Name of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
