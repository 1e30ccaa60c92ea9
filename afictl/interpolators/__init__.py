"""Interpolators: modules that enlarge a feature map exactly twofold: ``interpolator(coarse, fine=None)``.

Each has ``kind``, ``channels`` and ``options``; ``build_interpolator`` makes its like from these three.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from afictl.errors import UserError, did_you_mean
from afictl.interpolators.afi import AFInterpolator
from afictl.interpolators.carafe import Carafe
from afictl.interpolators.dysample import DySample
from afictl.interpolators.fade import Fade
from afictl.interpolators.fixed import FixedInterpolator
from afictl.interpolators.pixel_shuffle import PixelShuffle
from afictl.interpolators.sapa import Sapa
from afictl.interpolators.transposed_conv import TransposedConv

__all__ = [
    "AFInterpolator",
    "Carafe",
    "DySample",
    "Fade",
    "FixedInterpolator",
    "PixelShuffle",
    "Sapa",
    "TransposedConv",
    "build_interpolator",
    "interpolator_kinds",
]

_KINDS: dict[str, Callable[..., nn.Module]] = {
    "afi": AFInterpolator,
    "nearest": partial(FixedInterpolator, "nearest"),
    "bilinear": partial(FixedInterpolator, "bilinear"),
    "bicubic": partial(FixedInterpolator, "bicubic"),
    "transposed-conv": TransposedConv,
    "pixel-shuffle": PixelShuffle,
    "carafe": Carafe,
    "dysample": partial(DySample, "dysample"),
    "dysample-plus": partial(DySample, "dysample-plus"),
    "sapa": Sapa,
    "fade": Fade,
}


def interpolator_kinds() -> list[str]:
    """Every kind that ``build_interpolator`` knows."""
    return list(_KINDS)


def build_interpolator(kind: str, channels: int, **options: Any) -> nn.Module:
    """Build a fresh interpolator for maps (N, channels, H, W) -> (N, channels, 2H, 2W).

    Raises:
        UserError: unknown kind, or an option that the kind does not have.
    """
    if kind not in _KINDS:
        raise UserError(f"no interpolator is called '{kind}'{did_you_mean(kind, interpolator_kinds())}")
    known = [name for name in inspect.signature(_KINDS[kind]).parameters if name not in ("kind", "channels")]
    for name in options:
        if name not in known:
            raise UserError(f"interpolator '{kind}' has no option '{name}'{did_you_mean(name, known)}")
    return _KINDS[kind](channels=channels, **options)
