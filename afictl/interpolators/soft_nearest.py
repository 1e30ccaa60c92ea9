"""Soft nearest interpolation: nearest interpolation times a factor, the control of every learned interpolator.

Li, "Rethinking features-fused-pyramid-neck for object detection", https://arxiv.org/abs/2505.12820. The published
factor is the ratio of the resolutions and stays; here it starts there and is learned, so that the comparison shows what
the weight of the coarse map in the sum is worth alone.
Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators.base import Interpolator


class SoftNearest(Interpolator):
    """Twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W, with one parameter, which starts at 1/4.

    Args:
        channels: C, for information; maps of any width are accepted.
    """

    kind = "soft-nearest"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.factor = nn.Parameter(torch.tensor([0.25]))

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        return F.interpolate(self.factor.to(coarse.dtype) * coarse, scale_factor=2.0, mode="nearest")
