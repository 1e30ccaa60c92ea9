"""Interpolators without parameters: the usual choices that a learned one is compared with.

Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from afictl.interpolators.base import Interpolator


class FixedInterpolator(Interpolator):
    """Enlarges (N, C, H, W) to (N, C, 2H, 2W) by PyTorch's rule of the name ``kind`` (corners not aligned).

    Args:
        channels: C, for information; maps of any width are accepted.
    """

    learned = False

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        align_corners = None if self.kind == "nearest" else False
        return F.interpolate(coarse, scale_factor=2.0, mode=self.kind, align_corners=align_corners)


class Nearest(FixedInterpolator):
    """Nearest neighbour."""

    kind = "nearest"


class Bilinear(FixedInterpolator):
    """Bilinear."""

    kind = "bilinear"


class Bicubic(FixedInterpolator):
    """Bicubic."""

    kind = "bicubic"
