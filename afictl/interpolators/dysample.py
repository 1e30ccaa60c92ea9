"""DySample: bilinear sampling of the coarse map at points that a 1x1 convolution moves.

Liu et al., "Learning to upsample by learning to sample", https://arxiv.org/abs/2308.15085, in its four forms: offsets
are predicted from the coarse map ("linear, then pixel shuffle") or, in the S forms, from its pixel-shuffled values
("pixel shuffle, then linear"); those of the + forms also have a predicted scope.
Legend: N images, C channels, H x W the coarse map, G groups.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.errors import UserError
from afictl.interpolators.base import Interpolator, require_divisor, zero_biases
from afictl.interpolators.sampling import moved_centres, sample

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
    shuffles_first: ClassVar[bool] = False
    """Offsets are predicted from the pixel-shuffled map (N, C / 4, 2H, 2W)."""

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__(channels, groups=groups)
        require_divisor(self, "groups", groups)
        if self.shuffles_first and channels % 4:
            raise UserError(f"interpolator '{self.kind}': channels must be a multiple of 4, not {channels}")
        self.offset = self._convolution(bias=True)
        nn.init.normal_(self.offset.weight, std=0.001)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused.

        Where a point is not finite, the map of its image and group is NaN.
        """
        return sample(coarse, self.points(coarse)).to(coarse.dtype)

    def points(self, coarse: Tensor) -> Tensor:
        """Sampling point of each fine pixel: (N * G, 2H, 2W, 2), see ``moved_centres``."""
        height, width = coarse.shape[-2:]
        return moved_centres(self._offset(coarse), (height, width), scale=2)

    def _convolution(self, bias: bool) -> nn.Conv2d:
        """Convolution that predicts a value for x and y of each group and each fine pixel."""
        pixels = 1 if self.shuffles_first else 4
        return nn.Conv2d(self.channels * pixels // 4, 2 * int(self.options["groups"]) * pixels, 1, bias=bias)

    def _predict(self, convolution: nn.Module, coarse: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2 * G, 2H, 2W), at least float32."""
        if self.shuffles_first:
            values = convolution(F.pixel_shuffle(coarse, 2))
        else:
            values = F.pixel_shuffle(convolution(coarse), 2)
        return values.to(torch.promote_types(coarse.dtype, torch.float32))

    def _offset(self, coarse: Tensor) -> Tensor:
        """(N, 2 * G, 2H, 2W) in coarse pixels."""
        return _SCOPE * self._predict(self.offset, coarse)


class DySamplePlus(DySample):
    """DySample whose 1x1 convolution ``scope`` predicts how far each offset may reach."""

    kind = "dysample-plus"

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__(channels, groups)
        self.scope = self._convolution(bias=False)
        nn.init.zeros_(self.scope.weight)

    def _offset(self, coarse: Tensor) -> Tensor:
        return 2 * _SCOPE * self._predict(self.scope, coarse).sigmoid() * self._predict(self.offset, coarse)


class DySampleS(DySample):
    """DySample with offsets from the pixel-shuffled map: an eighth of the parameters.

    Args:
        channels: C of the maps, a multiple of 4.
        groups: G.

    Raises:
        UserError: ``channels`` is no multiple of 4, or ``groups`` is not a positive number that divides it.
    """

    kind = "dysample-s"
    shuffles_first = True

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__(channels, groups)


class DySampleSPlus(DySamplePlus):
    """DySample+ with offsets and scope from the pixel-shuffled map; arguments and errors as those of DySample-S."""

    kind = "dysample-s-plus"
    shuffles_first = True

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__(channels, groups)
