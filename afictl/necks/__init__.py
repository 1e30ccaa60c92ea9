"""Necks: backbone maps in, pyramid ``p2..p6`` or ``p3..p7`` out, with the interpolator as a part."""

from __future__ import annotations

from collections.abc import Mapping

from afictl.errors import UserError
from afictl.interpolators import Interpolator
from afictl.necks.bifpn import BiFPN
from afictl.necks.fpn import FPN
from afictl.necks.neck import Neck
from afictl.necks.pafpn import PAFPN
from afictl.presets import BiFPNConfig, NeckConfig

__all__ = ["FPN", "PAFPN", "BiFPN", "Neck", "build_neck", "input_levels"]

_NECKS: dict[str, type[FPN] | type[PAFPN] | type[BiFPN]] = {"fpn": FPN, "pafpn": PAFPN, "bifpn": BiFPN}


def input_levels(config: NeckConfig) -> tuple[str, ...]:
    """The backbone levels that the neck of ``config`` reads: ``res2..res5``, for a pyramid p3..p7 ``res3..res5``."""
    finest = 3 if isinstance(config, BiFPNConfig) or config.top != "pool" else 2
    return tuple(f"res{i}" for i in range(finest, 6))


def build_neck(config: NeckConfig, in_channels: Mapping[str, int], interpolator: Interpolator) -> FPN | BiFPN:
    """Build the neck that ``config`` describes around ``interpolator``.

    Args:
        in_channels: channels of the backbone's levels, ``input_levels(config)`` at least.

    Raises:
        UserError: the interpolator is made for another number of channels.
    """
    if interpolator.channels != config.channels:
        raise UserError(
            f"the interpolator is made for {interpolator.channels} channels, the neck has {config.channels}; "
            f"train one with --set neck.channels={config.channels}, "
            f"or build the detector with --set neck.channels={interpolator.channels}"
        )
    levels = {level: in_channels[level] for level in input_levels(config)}
    return _NECKS[config.kind](levels, interpolator, **config.model_dump(exclude={"kind"}))
