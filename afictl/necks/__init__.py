"""Necks: backbone maps ``res2..res5`` in, pyramid ``p2..p6`` out, with the interpolator as a part."""

from collections.abc import Mapping

from torch import nn

from afictl.errors import UserError
from afictl.necks.fpn import FPN
from afictl.presets import NeckConfig

__all__ = ["FPN", "build_neck"]


def build_neck(config: NeckConfig, in_channels: Mapping[str, int], interpolator: nn.Module) -> nn.Module:
    """Build the neck that ``config`` describes around ``interpolator``.

    Raises:
        UserError: the interpolator is made for another number of channels.
    """
    if interpolator.channels != config.channels:
        raise UserError(
            f"the interpolator is made for {interpolator.channels} channels, the neck has {config.channels}; "
            f"train one with --set neck.channels={config.channels}, "
            f"or build the detector with --set neck.channels={interpolator.channels}"
        )
    return FPN(in_channels, config.channels, interpolator, config.fuse)
