"""Interpolators alone, on one map: time, memory, work and size."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.table import Table
from torch import Tensor, nn

from afictl.comparison.cost.profiling import peak_bytes, synchronized_time
from afictl.detectors import interpolator_cost
from afictl.interpolators import build_interpolator
from afictl.progress import ProgressCallback


@dataclass(frozen=True)
class Figures:
    """What one kind costs."""

    kind: str
    parameters: int
    multiply_adds: int
    """Of a forward pass."""
    forward_milliseconds: float
    """Without gradients."""
    training_milliseconds: float
    """Forward and backward, with gradients of the weights and of both maps."""
    forward_peak_bytes: int
    training_peak_bytes: int
    """Most memory at once beyond weights and maps: the answer counts, in training also its gradient."""


def benchmark_interpolators(
    kinds: Sequence[str],
    channels: int,
    coarse_hw: tuple[int, int],
    rounds: int,
    progress: ProgressCallback | None = None,
) -> list[Figures]:
    """Measure fresh interpolators on noise, one image in float32, on the first GPU where there is one.

    The kinds take turns after one turn that does not count, so that a slow moment of the machine meets all alike; the
    median of a kind's turns counts.

    Args:
        kinds: as ``build_interpolator`` knows them.
        channels: of both maps.
        coarse_hw: height and width of the coarse map; the fine one is twice as large.
        rounds: turns that count.
        progress: called with the number of turns done and of all turns.

    Raises:
        UserError: a kind that there is not, or that does not exist for so many channels.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator, (h, w) = torch.Generator().manual_seed(0), coarse_hw
    maps = [torch.randn(1, channels, *hw, generator=generator).to(device) for hw in (coarse_hw, (2 * h, 2 * w))]
    modules = {kind: build_interpolator(kind, channels).to(device) for kind in kinds}
    times: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in modules}
    for turn in range(rounds + 1):
        for kind, module in modules.items():
            pair = [_seconds(partial(run, module, maps), device) for run in (_forward, _train)]
            if turn:
                for kept, seconds in zip(times[kind], pair, strict=True):
                    kept.append(seconds)
        if progress is not None:
            progress(turn + 1, rounds + 1)
    return [_figures(kind, module, maps, times[kind]) for kind, module in modules.items()]


def _figures(kind: str, module: nn.Module, maps: list[Tensor], times: tuple[list[float], list[float]]) -> Figures:
    forward, training = (1000 * statistics.median(seconds) for seconds in times)
    device = maps[0].device
    with torch.no_grad():
        work = interpolator_cost(module, *maps)
    return Figures(
        kind=kind,
        parameters=sum(value.numel() for value in module.parameters()),
        multiply_adds=work,
        forward_milliseconds=forward,
        training_milliseconds=training,
        forward_peak_bytes=peak_bytes(lambda: _forward(module, maps), device),
        training_peak_bytes=peak_bytes(lambda: _train(module, maps), device),
    )


@torch.no_grad()
def _forward(module: nn.Module, maps: list[Tensor]) -> None:
    module(*maps)


def _train(module: nn.Module, maps: list[Tensor]) -> None:
    coarse, fine = (value.detach().requires_grad_() for value in maps)
    answer = module(coarse, fine)
    answer.backward(torch.ones_like(answer))
    module.zero_grad()


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    began = synchronized_time(device)
    run()
    return synchronized_time(device) - began


def table(figures: Sequence[Figures], channels: int, coarse_hw: tuple[int, int]) -> Table:
    """For the screen, with the size that memory is to be compared with."""
    enlarged = 4 * 4 * channels * coarse_hw[0] * coarse_hw[1]
    shape = f"{channels} x {coarse_hw[0]} x {coarse_hw[1]} (channels x height x width)"
    title = f"{shape}, enlarged twofold; the answer takes {enlarged / 1e6:.1f} MB"
    shown = Table("kind", title=title, box=None)
    for head in ("parameters", "G mult-adds", "ms\nforward", "ms\ntraining", "MB\nforward", "MB\ntraining"):
        shown.add_column(head, justify="right", no_wrap=True)
    shown.columns[0].no_wrap = True
    for each in figures:
        shown.add_row(
            each.kind,
            f"{each.parameters:,}",
            f"{each.multiply_adds / 1e9:.2f}",
            f"{each.forward_milliseconds:.1f}",
            f"{each.training_milliseconds:.1f}",
            f"{each.forward_peak_bytes / 1e6:.1f}",
            f"{each.training_peak_bytes / 1e6:.1f}",
        )
    return shown
