"""The AF interpolator against its plain form: forward passes at the sizes of a pyramid, and a training pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from afictl import AFInterpolator
from benchmarks.plain_afi import PlainAFInterpolator
from benchmarks.speed.machine import DTYPES, Machine
from benchmarks.speed.rows import SpeedRow, measure_alternatives, missing_rows

PART = "interpolator"
_CHANNELS, _MAPS, _TRAINING_MAP = 256, ((25, 42), (50, 84), (100, 168)), (50, 84)
_SHORT_CHANNELS, _SHORT_MAP = 16, (5, 7)
_SECONDS = 4.0

Pass = Callable[[nn.Module], list[Tensor]]
"""Results of a module."""


def build_pair(channels: int, device: torch.device) -> tuple[PlainAFInterpolator, AFInterpolator]:
    """The plain and the real interpolator with equal weights, whose learned branch is as large as the bilinear part."""
    torch.manual_seed(0)
    plain = PlainAFInterpolator(channels)
    for parameter in plain.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="leaky_relu", a=0.2)
    interpolator = AFInterpolator(channels)
    interpolator.load_state_dict(plain.state_dict())
    return plain.to(device), interpolator.to(device)


def measure_interpolator(machine: Machine) -> Iterator[list[SpeedRow]]:
    """Rows of every workload."""
    channels = _SHORT_CHANNELS if machine.short else _CHANNELS
    plain, interpolator = build_pair(channels, machine.device)
    modules: dict[str, nn.Module] = {"plain": plain, "afictl": interpolator}
    if machine.device.type == "cuda":
        modules["plain, channels-last"] = _ChannelsLast(plain)
    for h, w in [_SHORT_MAP] if machine.short else _MAPS:
        coarse = _noise(channels, h, w, machine)
        run = partial(_forward, coarse)
        yield from _workload_rows(f"{channels}x{h}x{w} forward", modules, run, machine, coarse)
    h, w = _SHORT_MAP if machine.short else _TRAINING_MAP
    run = partial(_train, _noise(channels, h, w, machine), _noise(channels, 2 * h, 2 * w, machine))
    yield from _workload_rows(f"{channels}x{h}x{w} forward and backward", modules, run, machine)


class _ChannelsLast(nn.Module):
    """A module with weights and maps in the channels-last format; input and output are contiguous."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(memory_format=torch.channels_last)

    def forward(self, coarse: Tensor) -> Tensor:
        """The result of the module."""
        output: Tensor = self.module(coarse.contiguous(memory_format=torch.channels_last))
        return output.contiguous()


class _Graph:
    """A CUDA graph of a forward pass for maps of one shape, captured in the first call, after warm-up passes.

    Args:
        run: forward pass, whose input does not move.
        coarse: the input.
    """

    def __init__(self, run: Callable[[], list[Tensor]], coarse: Tensor) -> None:
        self.run, self.coarse, self.new = run, coarse, coarse.clone()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outputs: list[Tensor] = []

    def __call__(self) -> list[Tensor]:
        """Results for a new input, which is copied into that of the graph."""
        if self.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.outputs = self.run()
            self.graph = graph
        self.coarse.copy_(self.new)
        self.graph.replay()
        return self.outputs


def _noise(channels: int, height: int, width: int, machine: Machine) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, height, width, generator=generator).to(machine.device)


def _workload_rows(
    workload: str, modules: Mapping[str, nn.Module], run: Pass, machine: Machine, coarse: Tensor | None = None
) -> Iterator[list[SpeedRow]]:
    """Rows of each precision; the plain form in fp32 is what all results are compared with."""
    reference: list[Tensor] = []

    def compute(precision: str, module: nn.Module) -> list[Tensor]:
        with machine.autocast(precision):
            return run(module)

    def describe(results: Mapping[str, list[Tensor]]) -> dict[str, str]:
        if reference:
            return {name: describe_error(values, reference) for name, values in results.items()}
        reference.extend(results["plain"])
        return {name: describe_error(values, reference) for name, values in results.items() if name != "plain"}

    for precision in DTYPES:
        if precision in machine.missing:
            yield missing_rows(PART, workload, precision, machine.missing[precision])
            continue
        runs: dict[str, Callable[[], list[Tensor]]] = {
            name: partial(compute, precision, module) for name, module in modules.items()
        }
        if machine.device.type == "cuda" and coarse is not None:
            runs["afictl, CUDA graph"] = _Graph(runs["afictl"], coarse)
        yield measure_alternatives(PART, workload, precision, runs, machine, _SECONDS, describe)


@torch.no_grad()
def _forward(coarse: Tensor, module: nn.Module) -> list[Tensor]:
    return [module(coarse)]


def _train(coarse: Tensor, gradient: Tensor, module: nn.Module) -> list[Tensor]:
    """The output, and the gradients of the map and all weights for that of the output."""
    coarse = coarse.detach().requires_grad_()
    module.zero_grad()
    output = module(coarse)
    output.backward(gradient)
    return [output.detach(), *(value.grad for value in (coarse, *module.parameters()) if value.grad is not None)]


def describe_error(values: list[Tensor], reference: list[Tensor]) -> str:
    """Largest difference of the output from ``reference``, and root mean square of those of the gradients.

    Both are in standard deviations of the tensor. Single gradients may differ more: where a value is so near 0 that
    rounding decides its sign, the leaky ReLU has another slope.
    """
    ratios = [(value.float() - expected) / expected.std() for value, expected in zip(values, reference, strict=True)]
    gradients = [float(ratio.square().mean().sqrt()) for ratio in ratios[1:]]
    return f"error {float(ratios[0].abs().max()):.1e}" + (f", of gradients {max(gradients):.1e}" if gradients else "")
