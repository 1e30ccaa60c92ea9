"""Transposed convolution of Long et al., "Fully convolutional networks", https://arxiv.org/abs/1411.4038.

Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from afictl.interpolators.base import Interpolator, replicate_border, zero_biases


class TransposedConv(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W; a fresh one is bilinear.

    The kernel is 4x4: with a stride of two every fine pixel then has 2x2 coarse neighbours, as bilinear
    interpolation needs and for all pixels alike, so that there is no checkerboard (3x3 has both faults). The border is
    replicated, as bilinear interpolation does; zeros would darken it.

    Args:
        channels: C of the maps.
    """

    kind = "transposed-conv"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        # The padding crops the two fine pixels of a replicated coarse one, and the one before them.
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=3)
        taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
        nn.init.zeros_(self.conv.weight)
        zero_biases(self)
        with torch.no_grad():
            self.conv.weight[range(channels), range(channels)] = torch.outer(taps, taps)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        return self.conv(replicate_border(coarse))
