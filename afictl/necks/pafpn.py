"""Path aggregation network (Liu et al., https://arxiv.org/abs/1803.01534): an FPN with a second path, upwards.

In the form of the published AFI-GAN: the fused maps, not the finished levels, are handed upwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators import Interpolator
from afictl.necks.convs import make_conv
from afictl.necks.fpn import FPN
from afictl.presets import NeckConfig


class PAFPN(FPN):
    """As ``FPN``; before the output convolutions, each fused map also takes in the next finer one."""

    def __init__(self, config: NeckConfig, in_channels: Mapping[str, int], interpolator: Interpolator) -> None:
        super().__init__(config, in_channels, interpolator)
        channels, norm = config.channels, config.norm == "batch"
        _, *coarser = self._sources
        self.halvings = nn.ModuleDict(
            {level: make_conv(channels, channels, 3, stride=2, norm=norm) for level in coarser}
        )

    def merge(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As ``FPN.merge``, followed by the path from fine to coarse."""
        maps = super().merge(features)
        for fine, coarse in pairwise(self._sources):
            maps[coarse] = self._fuse(maps[coarse], F.relu(self.halvings[coarse](maps[fine])))
        return maps
