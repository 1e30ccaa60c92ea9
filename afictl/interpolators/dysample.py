"""DySample: bilinear sampling of the coarse map at points that a 1x1 convolution moves.

Liu et al., "Learning to upsample by learning to sample", https://arxiv.org/abs/2308.15085; of its forms the one that
predicts offsets from the coarse map ("linear, then pixel shuffle"). DySample+ also predicts the scope of the offsets.
Legend: N images, C channels, H x W the coarse map, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.errors import UserError
from afictl.interpolators.base import Interpolator, zero_biases

# Offsets of up to one reach a quarter of a coarse pixel: half way to where the neighbouring fine pixel samples.
_SCOPE = 0.25


class DySample(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W; a fresh one is nearly bilinear.

    Args:
        channels: C of the maps.
        groups: G; the channels of a group share their sampling points.

    Raises:
        UserError: ``groups`` is not a positive number that divides ``channels``.
    """

    kind = "dysample"

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__(channels, groups=groups)
        self.groups = groups
        if channels % groups:
            raise UserError(f"interpolator '{self.kind}': groups={groups} does not divide the {channels} channels")
        # x and y for each group and each of the four fine pixels of a coarse one
        self.offset = nn.Conv2d(channels, 2 * groups * 4, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused.

        Where a point is not finite, the map of its image and group is NaN.
        """
        n, c, h, w = coarse.shape
        points = self.points(coarse)
        groups = coarse.to(points.dtype).reshape(-1, c // self.groups, h, w)
        # Without nan_to_num, grid_sample gives a wrong number at NaN, and its backward pass on a CPU writes outside of
        # the map.
        sampled = F.grid_sample(groups, points.nan_to_num(), padding_mode="border", align_corners=False)
        largest = points.detach().abs().amax(dim=(1, 2, 3))
        sampled += (largest - largest)[:, None, None, None]  # 0, or NaN
        return sampled.view(n, c, 2 * h, 2 * w).to(coarse.dtype)

    def points(self, coarse: Tensor) -> Tensor:
        """Sampling point of each fine pixel: (N * G, 2H, 2W, 2), x and y from -1 to 1 between the borders of the map.

        float32 also under autocast: in bfloat16 a coordinate near 300 is good to one pixel only.
        """
        n, _, h, w = coarse.shape
        offset = F.pixel_shuffle(self._offset(coarse), 2).view(n, 2, -1, 2 * h, 2 * w)
        x = _centres(2 * w, offset) + offset[:, 0]
        y = _centres(2 * h, offset).unsqueeze(1) + offset[:, 1]
        return torch.stack((2 * x / w - 1, 2 * y / h - 1), dim=-1).flatten(0, 1)

    def _offset(self, coarse: Tensor) -> Tensor:
        """(N, 2 * G * 4, H, W) in coarse pixels, at least float32."""
        return _SCOPE * self.offset(coarse).to(torch.promote_types(coarse.dtype, torch.float32))


class DySamplePlus(DySample):
    """DySample whose 1x1 convolution ``scope`` predicts how far each offset may reach."""

    kind = "dysample-plus"

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__(channels, groups)
        self.scope = nn.Conv2d(channels, 2 * groups * 4, 1, bias=False)
        nn.init.zeros_(self.scope.weight)

    def _offset(self, coarse: Tensor) -> Tensor:
        dtype = torch.promote_types(coarse.dtype, torch.float32)
        return 2 * _SCOPE * self.scope(coarse).to(dtype).sigmoid() * self.offset(coarse).to(dtype)


def _centres(count: int, like: Tensor) -> Tensor:
    """Centres of ``count`` fine pixels in a row, in coarse pixels: 0.25, 0.75, 1.25 and so on."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / 2
