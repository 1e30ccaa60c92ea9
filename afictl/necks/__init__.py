"""Necks: backbone maps in, pyramid ``p2..p6`` or ``p3..p7`` out, with the interpolator as a part.

Each has ``channels``, ``strides`` (level -> pixels a position, finest first), ``interpolator``, ``enlargements`` (how
often a forward pass calls it), and ``size_divisor``: in images of a multiple of that many pixels every level is exactly
half as large as the one below.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from afictl.errors import UserError
from afictl.interpolators import Interpolator
from afictl.necks.bifpn import BiFPN
from afictl.necks.fpn import FPN
from afictl.necks.pafpn import PAFPN
from afictl.presets import NeckConfig

__all__ = ["FPN", "PAFPN", "BiFPN", "build_neck", "input_levels"]

_NECKS = {"fpn": FPN, "pafpn": PAFPN, "bifpn": BiFPN}


def input_levels(config: NeckConfig) -> tuple[str, ...]:
    """The backbone levels that the neck of ``config`` reads: ``res2..res5``, for a pyramid p3..p7 ``res3..res5``."""
    finest = 2 if config.kind != "bifpn" and config.top == "pool" else 3
    return tuple(f"res{i}" for i in range(finest, 6))


def build_neck(config: NeckConfig, in_channels: Mapping[str, int], interpolator: Interpolator) -> nn.Module:
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
    return _NECKS[config.kind](config, {level: in_channels[level] for level in input_levels(config)}, interpolator)
