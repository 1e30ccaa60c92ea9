"""Necks: backbone maps in, pyramid ``p2..p6`` or ``p3..p7`` out, with the interpolator as a part."""

from __future__ import annotations

from collections.abc import Mapping

from afictl.errors import UserError
from afictl.interpolators import Interpolator
from afictl.interpolators.per_step import check_steps, with_steps
from afictl.necks.bifpn import BiFPN
from afictl.necks.fpn import FPN
from afictl.necks.neck import Neck, preset_with
from afictl.necks.pafpn import PAFPN
from afictl.presets import BiFPNConfig, NeckConfig

__all__ = [
    "FPN",
    "PAFPN",
    "BiFPN",
    "Neck",
    "build_neck",
    "check_interpolator",
    "input_levels",
    "preset_with",
    "pyramid_strides",
]

_NECKS: dict[str, type[FPN] | type[PAFPN] | type[BiFPN]] = {"fpn": FPN, "pafpn": PAFPN, "bifpn": BiFPN}


def input_levels(config: NeckConfig) -> tuple[str, ...]:
    """The backbone levels that the neck of ``config`` reads: ``res2..res5``, for a pyramid p3..p7 ``res3..res5``."""
    finest = 3 if isinstance(config, BiFPNConfig) or config.top != "pool" else 2
    return tuple(f"res{i}" for i in range(finest, 6))


def pyramid_strides(config: NeckConfig) -> dict[str, int]:
    """Stride in pixels of the five levels of the neck of ``config``, finest first, without building it."""
    finest = int(input_levels(config)[0].removeprefix("res"))
    return {f"p{i}": 2**i for i in range(finest, finest + 5)}


def _num_upsamplers(config: NeckConfig) -> int:
    """Calls of the interpolator in one forward pass of the neck of ``config``."""
    if isinstance(config, BiFPNConfig):
        return 4 * config.repeats
    return len(input_levels(config)) - (config.top_down_from == "p5")


def check_interpolator(config: NeckConfig, interpolator: Interpolator) -> None:
    """Check that ``interpolator`` fits the neck of ``config``.

    Raises:
        UserError: it is made for another number of channels, or has modules for another number of steps.
    """
    if interpolator.channels != config.channels:
        raise UserError(
            f"the interpolator is made for {interpolator.channels} channels, the neck has {config.channels}; "
            f"train one with --set neck.channels={config.channels}, "
            f"or build the detector with --set neck.channels={interpolator.channels}"
        )
    check_steps(interpolator, config.interpolators == "per-step", _num_upsamplers(config))


def build_neck(config: NeckConfig, in_channels: Mapping[str, int], interpolator: Interpolator) -> FPN | BiFPN:
    """Build the neck that ``config`` describes around ``interpolator``, or for ``per-step`` around copies of it.

    Args:
        in_channels: channels of the backbone's levels, ``input_levels(config)`` at least.
        interpolator: a single one, or a ``PerStepInterpolator`` of as many steps as the neck has enlargements.

    Raises:
        UserError: as ``check_interpolator``.
    """
    check_interpolator(config, interpolator)
    levels = {level: in_channels[level] for level in input_levels(config)}
    settings = config.model_dump(exclude={"kind", "interpolators"})
    module = with_steps(interpolator, config.interpolators == "per-step", _num_upsamplers(config))
    return _NECKS[config.kind](levels, module, **settings)
