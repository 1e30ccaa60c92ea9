"""Path aggregation network (Liu et al., https://arxiv.org/abs/1803.01534): an FPN with a bottom-up path.

In the form of the published AFI-GAN: the bottom-up path starts from the fused maps, not from the output maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators import Interpolator
from afictl.necks.fpn import FPN
from afictl.necks.neck import make_conv


class PAFPN(FPN):
    """``FPN`` whose fused maps are also fused with the next finer one before the output convolutions."""

    def __init__(
        self,
        in_channels: Mapping[str, int],
        interpolator: Interpolator,
        *,
        channels: int,
        norm: Literal["none", "batch"] = "none",
        fuse: Literal["sum", "avg"] = "sum",
        top: Literal["pool", "p5", "res5"] = "pool",
        top_down_from: Literal["p5", "p6"] = "p5",
    ) -> None:
        super().__init__(
            in_channels, interpolator, channels=channels, norm=norm, fuse=fuse, top=top, top_down_from=top_down_from
        )
        _, *coarser = self._sources
        self.downsample_convs = nn.ModuleDict(
            {level: make_conv(channels, channels, 3, stride=2, norm=norm == "batch") for level in coarser}
        )

    def merge(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``FPN.merge``, followed by the path from fine to coarse."""
        maps = super().merge(features)
        for fine, coarse in pairwise(self._sources):
            maps[coarse] = self._fuse(maps[coarse], F.relu(self.downsample_convs[coarse](maps[fine])))
        return maps
