"""Time, memory, multiply-adds and parameters of interpolators on one map, without a detector."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.table import Table
from torch import Tensor, nn

from afictl.comparison.cost.profiling import peak_bytes, time_scatter
from afictl.detectors import interpolator_cost
from afictl.detectors.image_memory import device_memory
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.interpolators import build_interpolator
from afictl.progress import ProgressCallback
from afictl.timing import seconds_of

_COARSE_MAPS = 14
"""Memory of a training pass of every kind, in coarse maps: both maps, the output, and the gradients of coarse map and
output."""


@dataclass(frozen=True)
class InterpolatorCost:
    """Cost of one interpolator kind."""

    kind: str
    parameters: int
    multiply_adds: int
    """Multiply-adds of a forward pass."""
    forward_milliseconds: float
    """Median of a forward pass without gradients."""
    training_milliseconds: float
    """Median of a forward and backward pass, with gradients of the weights and both maps."""
    forward_peak_bytes: int
    training_peak_bytes: int
    """Peak memory beyond weights and input maps, including the output and, in training, the gradients."""
    scatter: float
    """Interquartile range of the times of either pass, relative to their median; the larger one."""


def benchmark_interpolators(
    kinds: Sequence[str],
    channels: int,
    coarse_hw: tuple[int, int],
    rounds: int,
    progress: ProgressCallback | None = None,
    runtime: Runtime | None = None,
) -> list[InterpolatorCost]:
    """Measure untrained interpolators on one float32 map of noise.

    After a warm-up round the kinds alternate, so that other load on the machine affects all alike; times are medians.

    Args:
        kinds: kinds of ``build_interpolator``.
        channels: channels of both maps.
        coarse_hw: height and width of the coarse map; the fine map is twice as large.
        rounds: repetitions after the warm-up.
        progress: called with the number of rounds done and of all rounds.
        runtime: device and precision; None: the CPU, in float32.

    Raises:
        UserError: an unknown kind, one that does not support this number of channels, or too little memory.
    """
    runtime = runtime or Runtime()
    device = runtime.device
    generator, (h, w) = torch.Generator().manual_seed(0), coarse_hw
    needed, memory = 4 * _COARSE_MAPS * channels * h * w, device_memory(device)
    if needed > memory:
        raise UserError(
            f"a map of {channels}x{h}x{w} takes at least {needed / 1e9:,.0f} GB, of {memory / 1e9:,.0f} GB of memory;"
            " reduce --channels, --height or --width"
        )
    maps = [torch.randn(1, channels, *hw, generator=generator).to(device) for hw in (coarse_hw, (2 * h, 2 * w))]
    modules = {kind: build_interpolator(kind, channels).to(device) for kind in kinds}
    times: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in modules}
    with runtime.autocast():
        for round_number in range(rounds + 1):
            for kind, module in modules.items():
                round_seconds = [seconds_of(partial(run, module, maps), device) for run in (_forward, _train)]
                if round_number:
                    for values, seconds in zip(times[kind], round_seconds, strict=True):
                        values.append(seconds)
            if progress is not None:
                progress(round_number + 1, rounds + 1)
        return [_cost(kind, module, maps, times[kind]) for kind, module in modules.items()]


def _cost(kind: str, module: nn.Module, maps: list[Tensor], times: tuple[list[float], list[float]]) -> InterpolatorCost:
    forward, training = (1000 * statistics.median(seconds) for seconds in times)
    device = maps[0].device
    with torch.no_grad():
        multiply_adds = interpolator_cost(module, *maps)
    return InterpolatorCost(
        kind=kind,
        parameters=sum(value.numel() for value in module.parameters()),
        multiply_adds=multiply_adds,
        forward_milliseconds=forward,
        training_milliseconds=training,
        forward_peak_bytes=peak_bytes(lambda: _forward(module, maps), device),
        training_peak_bytes=peak_bytes(lambda: _train(module, maps), device),
        scatter=max(map(time_scatter, times)),
    )


@torch.no_grad()
def _forward(module: nn.Module, maps: list[Tensor]) -> None:
    module(*maps)


def _train(module: nn.Module, maps: list[Tensor]) -> None:
    coarse, fine = (value.detach().requires_grad_() for value in maps)
    output = module(coarse, fine)
    output.backward(torch.ones_like(output))
    module.zero_grad()


def interpolator_table(
    costs: Sequence[InterpolatorCost], channels: int, coarse_hw: tuple[int, int], precision: str
) -> Table:
    """Table for the screen; its title has the size of the output in float32, to compare with the memory."""
    output_bytes = 4 * 4 * channels * coarse_hw[0] * coarse_hw[1]
    shape = f"{channels} x {coarse_hw[0]} x {coarse_hw[1]} (channels x height x width)"
    title = f"{shape}, enlarged 2x in {precision}; size of the output in float32 {output_bytes / 1e6:.1f} MB"
    table = Table("kind", title=title, box=None)
    for header in ("parameters", "G mult-adds", "ms\nforward", "ms\ntraining", "MB\nforward", "MB\ntraining"):
        table.add_column(header, justify="right", no_wrap=True)
    table.columns[0].no_wrap = True
    for cost in costs:
        table.add_row(
            cost.kind,
            f"{cost.parameters:,}",
            f"{cost.multiply_adds / 1e9:.2f}",
            f"{cost.forward_milliseconds:.1f}",
            f"{cost.training_milliseconds:.1f}",
            f"{cost.forward_peak_bytes / 1e6:.1f}",
            f"{cost.training_peak_bytes / 1e6:.1f}",
        )
    return table
