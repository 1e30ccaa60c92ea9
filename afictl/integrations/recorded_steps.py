"""The enlargements of a recorded forward pass: those that an interpolator can replace, and the others with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from afictl.integrations.interpolate_calls import InterpolateCall, is_enlarged, is_twofold
from afictl.integrations.scoped_calls import INTERPOLATORS, InterpolatedModule
from afictl.integrations.substitution import UnreachedStep, UpsamplingStep

_MAX_SIZES = 3
"""That a reason lists."""


class RecordedStep(NamedTuple):
    """An enlargement that can be replaced."""

    step: UpsamplingStep
    module: nn.Module
    call: int
    call_mode: tuple[str, bool]
    """Mode, and whether corners are aligned."""
    like: Tensor
    """An input, with the device and type that the interpolator gets."""


class RecordedCall(NamedTuple):
    """A call of ``interpolate`` in one run of ``module``, counted from 0."""

    module: nn.Module
    number: int
    arguments: InterpolateCall


class Recording(NamedTuple):
    """All enlargements of a forward pass, in its order."""

    reached: list[RecordedStep]
    unreached: list[UnreachedStep]
    inside: dict[nn.Module, set[nn.Module]]
    """Module -> the modules that call ``interpolate`` within its ``forward``."""


def size_text(sides: Collection[int]) -> str:
    """Sides as ``64x80``."""
    return "x".join(map(str, sides))


def sort_calls(
    calls: Sequence[RecordedCall], names: Mapping[nn.Module, str], around_interpolators: Collection[nn.Module]
) -> tuple[list[RecordedStep], list[UnreachedStep]]:
    """The enlargements among ``calls``, and those of them that cannot be replaced.

    Args:
        names: of the modules.
        around_interpolators: modules that could not tell their calls from those of interpolators inside them.
    """
    groups: dict[tuple[nn.Module, int, int], list[InterpolateCall]] = {}
    for module, number, arguments in calls:
        groups.setdefault((module, number, arguments.maps.shape[1]), []).append(arguments)
    reached: list[RecordedStep] = []
    other_scales: dict[tuple[str, str], list[str]] = {}
    obstacles: Counter[tuple[str, str]] = Counter()
    for (module, number, _), group in groups.items():
        if not any(is_enlarged(call.maps.shape[2:], call.size) for call in group):
            continue
        obstacle = _obstacle(module, group, module in around_interpolators)
        if not all(is_twofold(call.maps.shape[2:], call.size) for call in group):
            for call in group:
                source = f"{call.mode} from {size_text(call.maps.shape[2:])}"
                other_scales.setdefault((names[module], source), []).append(_target_text(call))
        elif obstacle is not None:
            obstacles[names[module], obstacle] += len(group)
        else:
            reached.append(_reached(names[module], module, number, group))
    unreached = [
        UnreachedStep(name, f"{source} to {_list_text(targets)} is not twofold", len(targets))
        for (name, source), targets in other_scales.items()
    ]
    return reached, unreached + [UnreachedStep(*key, runs) for key, runs in obstacles.items()]


def _reached(name: str, module: nn.Module, number: int, calls: Sequence[InterpolateCall]) -> RecordedStep:
    call = calls[0]
    mode = f"{call.mode}, corners aligned" if call.align_corners else call.mode
    step = UpsamplingStep(name, number, call.maps.shape[1], mode, len(calls))
    return RecordedStep(step, module, number, (call.mode, call.align_corners), call.maps)


def _obstacle(module: nn.Module, calls: Sequence[InterpolateCall], around_interpolators: bool) -> str | None:
    """Why no interpolator can replace twofold ``calls``, if so."""
    name = type(module).__name__
    if not all(len(call.size) == 2 and call.maps.is_floating_point() for call in calls):
        return f"{name} enlarges no floating-point maps (N, C, H, W)"
    if "forward" in vars(module):
        return f"{name} has a 'forward' of its own, beside that of its class"
    if hasattr(module, INTERPOLATORS) and not isinstance(module, InterpolatedModule):
        return f"{name} has an attribute '{INTERPOLATORS}' of its own"
    if around_interpolators:
        return f"{name} calls interpolate beside a pyramid or an interpolator inside it"
    return None


def _target_text(call: InterpolateCall) -> str:
    factors = {large / small for small, large in zip(call.maps.shape[2:], call.size, strict=True)}
    return size_text(call.size) + (f" (x{factors.pop():g})" if len(factors) == 1 else "")


def _list_text(targets: Sequence[str]) -> str:
    different = list(dict.fromkeys(targets))
    rest = len(different) - _MAX_SIZES
    return ", ".join(different[:_MAX_SIZES]) + (f" and {rest} other sizes" if rest > 0 else "")
