"""``--compile``: ``torch.compile`` of the parts of a detector or a stage that are faster with it on this device.

Each part is compiled before the first step, for maps of any size, and timed beside itself without compilation. Where it
gains nothing or cannot be compiled, it stays as it was. Later nothing is compiled: an input that the compiled code does
not cover, such as another number of images, or an evaluation in the midst of a training, is computed without it. So
the time for compilation is spent once, and cannot surprise a long training.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from afictl.data.transforms import half_size
from afictl.detectors import Detector
from afictl.distributed import all_gather
from afictl.errors import one_line
from afictl.interpolators import Interpolator
from afictl.presets import InterpolatorRecipe
from afictl.timing import seconds_of
from afictl.training.accumulation import Buffers
from afictl.training.adversarial import Pair, Pyramid, PyramidInterpolator
from afictl.training.guide_features import GuideMaps, enlarged_pairs, guide_maps, same_size_pairs
from afictl.training.hardware import compiles

_MIN_GAIN = 1.02
"""Ratio of times from which a part counts as faster."""
_PAIRS = 5
_COMPILER: dict[str, Any] = {"options": {"fallback_random": True}}
"""Arguments of ``torch.compile``: Inductor, with the random numbers of a computation without it."""
_RECOMPILE_LIMIT = 64
"""All modules share the code that is compiled, so that the limit of torch, 8, is that of all parts together."""


class Part(NamedTuple):
    """A module to compile, and the passes through it that a step or an evaluation makes."""

    name: str
    module: nn.Module
    run: Callable[[], None]


@contextmanager
def compiled(
    fabric: Fabric, modules: Sequence[nn.Module], make_parts: Callable[[], list[Part]], log: Callable[[str], None]
) -> Iterator[None]:
    """Inside, the parts that gain by it are compiled, if the ``fabric`` was launched so.

    Names in state dicts, random numbers and statistics of batch norms stay as they are.

    Args:
        fabric: the launched Fabric.
        modules: on its device, in the modes of the computation that follows; they contain the parts.
        make_parts: makes the parts; called once.
        log: called with a line on each part.
    """
    if not compiles(fabric):
        yield
        return
    parts = _compile(fabric, modules, make_parts, log)
    try:
        with torch.compiler.set_stance("eager_on_recompile"):
            yield
    finally:
        for part in parts:
            part.module.compile(disable=True)
        torch.compiler.reset()


def detector_parts(
    detector: Detector, run: Callable[[], object], *, trains: bool, has_neck: bool = True, prefix: str = ""
) -> list[Part]:
    """Backbone and neck, which includes the interpolator; of a model of another library the backbone alone.

    Args:
        detector: the detector.
        run: computes its pyramids.
        trains: with gradients.
        has_neck: False leaves the neck as it is.
        prefix: of the names.
    """
    modules = {f"{prefix}backbone": detector.backbone.net}
    if has_neck and isinstance(detector.neck, nn.Module):
        modules[f"{prefix}neck"] = detector.neck
    calls = _recorded_calls(modules.values(), run, trains)
    return [Part(name, module, partial(_repeat, module, calls[module], trains)) for name, module in modules.items()]


def stage1_parts(
    guide: Detector, interpolator: Interpolator, discriminator: nn.Module, recipe: InterpolatorRecipe, count: int
) -> list[Part]:
    """The guide's backbone and, where its levels are the features, its neck; interpolator and discriminator.

    Where the features are the inputs of the interpolator, the neck stays as it is: they are recorded by a hook, which
    compiled code does not call.
    """
    full, half = (trial_images(guide, count, max(guide.input.min_sizes), half=value) for value in (False, True))

    def run_guide() -> list[GuideMaps]:
        return [guide_maps(guide, images, recipe.features) for images in (full, half)]

    def enlarge() -> Pyramid:
        return PyramidInterpolator(interpolator)(coarse, fine)

    with torch.no_grad():
        (real, _), (coarse, fine) = run_guide()
    calls = _recorded_calls([interpolator], enlarge, trains=True)[interpolator]
    has_neck = recipe.features == "levels"
    return [
        *detector_parts(guide, run_guide, trains=False, has_neck=has_neck, prefix="guide's "),
        Part("interpolator", interpolator, partial(_repeat, interpolator, calls, trains=True)),
        discriminator_part(discriminator, enlarged_pairs(guide, enlarge(), real, full, half)),
    ]


def stage2_parts(guide: Detector, student: Detector, discriminator: nn.Module, count: int) -> list[Part]:
    """Backbones and necks of guide and student, and the discriminator."""
    full, half = (trial_images(guide, count, max(guide.input.min_sizes), half=value) for value in (False, True))
    with torch.no_grad():
        real = guide.pyramid(full)
    return [
        *detector_parts(guide, lambda: guide.pyramid(full), trains=False, prefix="guide's "),
        *detector_parts(student, lambda: student.pyramid(half), trains=True),
        discriminator_part(discriminator, same_size_pairs(guide, student.pyramid(half), real, full, half)),
    ]


def discriminator_part(discriminator: nn.Module, pairs: Mapping[str, Pair]) -> Part:
    """Its passes in a step: for its own parameters, and with these fixed for the generator."""
    present = [pair for pair in pairs.values() if pair.has_statistics]
    own = [(_leaf(value.detach() * pair.mask),) for pair in present for value in (pair.real, pair.fake)]
    generators = [(_leaf(pair.fake * pair.mask),) for pair in present]

    def run() -> None:
        _repeat(discriminator, own, trains=True)
        discriminator.requires_grad_(False)
        _repeat(discriminator, generators, trains=True)
        discriminator.requires_grad_(True)

    return Part("discriminator", discriminator, run)


def trial_images(detector: Detector, count: int, short_side: int, *, half: bool = False) -> list[Tensor]:
    """Images of noise, (3,H,W) float32 in 0..1, of different height and width, on the device of ``detector``.

    Args:
        detector: determines the sizes that padding leaves.
        count: number of images.
        short_side: H in pixels, before it is rounded up to such a size.
        half: at half the size.
    """
    divisor = detector.neck.size_divisor
    rows = math.ceil(short_side / divisor)
    size = rows * divisor, max(rows + 1, round(rows * 4 / 3)) * divisor
    height, width = half_size(size) if half else size
    generator = torch.Generator().manual_seed(0)
    device = detector.pixel_mean.device
    return [torch.rand(3, height, width, generator=generator).to(device) for _ in range(count)]


def _recorded_calls(
    modules: Iterable[nn.Module], run: Callable[[], object], trains: bool
) -> dict[nn.Module, list[tuple[Any, ...]]]:
    """The arguments of the calls of each module in ``run``; their tensors have no history."""
    calls: dict[nn.Module, list[tuple[Any, ...]]] = {module: [] for module in modules}
    hooks = [module.register_forward_pre_hook(lambda module, inputs: calls[module].append(inputs)) for module in calls]
    with torch.set_grad_enabled(trains):
        run()
    for hook in hooks:
        hook.remove()
    return {module: tree_map_only(Tensor, _leaf, inputs) for module, inputs in calls.items()}


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.requires_grad)


def _repeat(module: nn.Module, calls: Iterable[tuple[Any, ...]], trains: bool) -> None:
    """Call a module; with ``trains`` also compute the gradients of its parameters and inputs, and drop them."""
    for inputs in calls:
        with torch.set_grad_enabled(trains):
            outputs = [value for value in tree_leaves(module(*inputs)) if value.requires_grad]
        leaves = [*module.parameters(), *(value for value in tree_leaves(inputs) if isinstance(value, Tensor))]
        needed = [value for value in leaves if value.requires_grad]
        if outputs:
            torch.autograd.grad(outputs, needed, [torch.ones_like(value) for value in outputs], allow_unused=True)


def compile_in_place(module: nn.Module) -> None:
    """Let ``module`` compile its next calls, for inputs of any size; ``module.compile(disable=True)`` undoes it."""
    module.compile(dynamic=True, **_COMPILER)


def _compile(
    fabric: Fabric, modules: Sequence[nn.Module], make_parts: Callable[[], list[Part]], log: Callable[[str], None]
) -> list[Part]:
    """Compile the parts that gain by it, and return them."""
    if fault := next(filter(None, all_gather(partial(_compiler_fault, fabric.device), fabric.world_size)), ""):
        log(f"--compile: nothing is compiled, as torch.compile does not work here ({fault})")
        return []
    buffers = [Buffers(module) for module in modules]
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with (
        fabric.autocast(),
        torch.random.fork_rng(devices),
        torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT),
    ):
        faster = [part for part in make_parts() if _is_faster(part, fabric, log)]
    for copies in buffers:
        copies.restore(norms=True)
    return faster


def _compiler_fault(device: torch.device) -> str:
    """Why a small module cannot be compiled, as without a C++ compiler; empty if it can."""
    module = nn.ReLU()
    compile_in_place(module)
    try:
        module(torch.ones(2, 3, device=device))
    except Exception as error:
        return _describe(error)
    return ""


def _is_faster(part: Part, fabric: Fabric, log: Callable[[str], None]) -> bool:
    """Compile a part in place and time it; where it is no faster, undo it. All ranks decide alike."""
    part.run()
    start = time.monotonic()
    compile_in_place(part.module)
    gain, fault = 0.0, ""
    try:
        part.run()
        seconds = time.monotonic() - start
        gain = _speed_up(part, fabric.device)
    except Exception as error:
        fault = _describe(error)
    gains, faults = zip(*all_gather(lambda: (gain, fault), fabric.world_size), strict=True)
    gain, fault = min(gains), next(filter(None, faults), "")
    if gain >= _MIN_GAIN:
        log(f"--compile: {part.name} compiled in {seconds:.0f} s, {gain:.2f} times as fast")
        return True
    part.module.compile(disable=True)
    reason = f"as it cannot be compiled ({fault})" if fault else f"compiled it would be {gain:.2f} times as fast"
    log(f"--compile: {part.name} stays uncompiled, {reason}")
    return False


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error):.200}"


def _speed_up(part: Part, device: torch.device) -> float:
    """Time without compilation over time with it: median of pairs, so that other load affects both alike."""
    ratios = []
    for _ in range(_PAIRS):  # as many on every rank: a pass may have collectives
        with torch.compiler.set_stance("force_eager"):
            eager = seconds_of(part.run, device)
        ratios.append(eager / seconds_of(part.run, device))
    return statistics.median(ratios)
