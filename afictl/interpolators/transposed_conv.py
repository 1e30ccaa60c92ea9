"""Transposed convolution, the enlargement of Long et al., "Fully convolutional networks", https://arxiv.org/abs/1411.4038.

Shapes: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from afictl.interpolators.border import repeat_border
from afictl.interpolators.initialise import zero_biases


class TransposedConv(nn.Module):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W; a fresh one is bilinear.

    The kernel is 4x4: with a stride of two every fine pixel then has 2x2 coarse neighbours, which is just what bilinear
    interpolation needs, and as many as any other, so that there is no checkerboard (3x3 has both faults). The coarse
    map is padded with its border values as bilinear interpolation does; zeros would darken the border.

    Args:
        channels: C of the maps.
    """

    kind = "transposed-conv"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.options: dict[str, Any] = {}
        # the padding cuts off the two fine pixels that belong to a padded one, and the one before them
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=3)
        taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
        nn.init.zeros_(self.conv.weight)
        zero_biases(self)
        with torch.no_grad():
            self.conv.weight[range(channels), range(channels)] = torch.outer(taps, taps)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is not looked at."""
        return self.conv(repeat_border(coarse))
