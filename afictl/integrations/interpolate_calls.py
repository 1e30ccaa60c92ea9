"""One call of ``torch.nn.functional.interpolate``: its arguments, its output size, and whether it enlarges twofold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class InterpolateCall(NamedTuple):
    """The arguments of one call."""

    maps: Tensor
    """(N, C, *size of the input)"""
    size: tuple[int, ...]
    """Height and width of the output."""
    mode: str
    align_corners: bool


def parse_call(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> InterpolateCall:
    """The arguments of ``interpolate`` with the size of its output; valid for the function itself."""
    before = tuple(input.shape[2:])
    if size is not None:
        after = tuple(size) if isinstance(size, Sequence) else (size,) * len(before)
    else:
        factors = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor,) * len(before)
        after = tuple(_scaled(side, factor) for side, factor in zip(before, factors, strict=True))
    return InterpolateCall(input, after, mode, bool(align_corners))


def _scaled(side: int, factor: float | None) -> int:
    assert factor is not None  # interpolate has refused a call without size and factor
    whole = int(factor)
    return side * whole if whole == factor else int(side * factor)  # whole factors leave symbolic sizes exact


def is_twofold(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether maps of height and width ``before`` are enlarged twofold, or to one row or column less."""
    return all(2 * small - large in (0, 1) for small, large in zip(before, after, strict=True))


def is_enlarged(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a side grows and none shrinks."""
    grows = any(large > small for small, large in zip(before, after, strict=True))
    return grows and all(large >= small for small, large in zip(before, after, strict=True))
