"""Sub-pixel convolution of Shi et al., https://arxiv.org/abs/1609.05158: a convolution, then pixel shuffle.

Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators.base import Interpolator, replicate_border, zero_biases


class PixelShuffle(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W; a fresh one is bilinear.

    Random weights would differ between the four fine pixels of a coarse one and start with a checkerboard
    (https://arxiv.org/abs/1707.02937). That paper starts from nearest interpolation; a 3x3 convolution can also start
    from bilinear, as most other learned interpolators do. The border is replicated, as bilinear interpolation does.

    Args:
        channels: C of the maps.
    """

    kind = "pixel-shuffle"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv = nn.Conv2d(channels, 4 * channels, 3)
        taps = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
        nn.init.zeros_(self.conv.weight)
        zero_biases(self)
        with torch.no_grad():
            pixels = self.conv.weight.view(channels, 4, channels, 3, 3)
            pixels[range(channels), :, range(channels)] = torch.einsum("ay,bx->abyx", taps, taps).flatten(0, 1)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        return F.pixel_shuffle(self.conv(replicate_border(coarse)), 2)
