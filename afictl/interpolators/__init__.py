"""Interpolators: modules that enlarge a feature map exactly twofold, and their kinds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from afictl.errors import UserError, did_you_mean
from afictl.interpolators.afi import AFInterpolator
from afictl.interpolators.afi_lite import AFILite
from afictl.interpolators.base import Interpolator
from afictl.interpolators.carafe import CARAFE
from afictl.interpolators.dlu import DLU
from afictl.interpolators.dysample import DySample, DySamplePlus, DySampleS, DySampleSPlus
from afictl.interpolators.fade import FADE
from afictl.interpolators.fixed import Bicubic, Bilinear, Nearest
from afictl.interpolators.freqfusion import FreqFusion
from afictl.interpolators.lda_aqu import LDAAQU
from afictl.interpolators.per_step import PerStepInterpolator
from afictl.interpolators.pixel_shuffle import PixelShuffle
from afictl.interpolators.sapa import SAPA
from afictl.interpolators.soft_nearest import SoftNearest
from afictl.interpolators.transposed_conv import TransposedConv
from afictl.memory import build_within_memory
from afictl.name_or_path import Names, parse_name
from afictl.presets import InterpolatorConfig

__all__ = [
    "INTERPOLATORS",
    "AFInterpolator",
    "Interpolator",
    "PerStepInterpolator",
    "build_configured",
    "build_interpolator",
    "check_options",
    "interpolator_kinds",
    "kind_of_source",
    "learned_kinds",
]

_CLASSES: tuple[type[Interpolator], ...] = (
    AFInterpolator,
    Nearest,
    Bilinear,
    Bicubic,
    SoftNearest,
    TransposedConv,
    PixelShuffle,
    CARAFE,
    DLU,
    DySample,
    DySamplePlus,
    DySampleS,
    DySampleSPlus,
    LDAAQU,
    SAPA,
    FADE,
    FreqFusion,
    AFILite,
)
INTERPOLATORS: dict[str, type[Interpolator]] = {cls.kind: cls for cls in _CLASSES}
"""Every kind; a program may add its own."""


def interpolator_kinds() -> list[str]:
    """Every kind that ``build_interpolator`` builds."""
    return list(INTERPOLATORS)


def learned_kinds() -> list[str]:
    """Kinds with parameters: those that can be pre-trained and saved."""
    return [kind for kind, cls in INTERPOLATORS.items() if cls.learned]


def kind_of_source(source: str, flag: str = "--interpolator ") -> str | None:
    """The kind that a source of an interpolator names, as ``KIND`` or ``kind:KIND``; None for a run or file.

    Args:
        source: kind or path.
        flag: see ``afictl.name_or_path.parse_name``.

    Raises:
        UserError: ``source`` is a kind and also an existing path.
    """
    return parse_name(source, Names(INTERPOLATORS, "kind", "kind of interpolator"), flag)


def check_options(kind: str, options: Mapping[str, object]) -> None:
    """Check that a kind exists and has options of these names.

    Raises:
        UserError: unknown kind, or an option that the kind does not have.
    """
    if kind not in INTERPOLATORS:
        raise UserError(f"no interpolator is called '{kind}'{did_you_mean(kind, interpolator_kinds())}")
    names = [name for name in inspect.signature(INTERPOLATORS[kind]).parameters if name != "channels"]
    for name in options:
        if name not in names:
            raise UserError(f"interpolator '{kind}' has no option '{name}'{did_you_mean(name, names)}")


def build_interpolator(kind: str, channels: int, **options: float | str) -> Interpolator:
    """Build a fresh interpolator for maps (N, channels, H, W) -> (N, channels, 2H, 2W).

    Raises:
        UserError: unknown kind, an option that the kind does not have, or weights too large for this machine's memory.
    """
    return build_configured(InterpolatorConfig(kind=kind, options=options), channels)


def build_configured(config: InterpolatorConfig, channels: int) -> Interpolator:
    """``build_interpolator`` from the section of a preset, whose options may have any names.

    Raises:
        UserError: as ``build_interpolator``.
    """
    check_options(config.kind, config.options)
    return build_within_memory(
        f"interpolator '{config.kind}'", lambda: INTERPOLATORS[config.kind](channels=channels, **config.options)
    )
