"""AF interpolator in a bottleneck: at most 15 % of the parameters and multiply-adds of ``afi``.

The residual group of ``afi`` works on a quarter of the channels, 96 at most, and a convolution with pixel shuffle
(https://arxiv.org/abs/1609.05158) replaces the 6x6 transposed convolution; the last convolution returns to all
channels.

Legend: N images, C channels, H x W the coarse map, B channels of the bottleneck.
"""

from __future__ import annotations

from torch import nn

from afictl.interpolators.afi import DenseBlock, DenseInterpolator, init_branch

_MAX_WIDTH = 96
"""Of the bottleneck; beyond 384 channels a quarter of them would exceed 15 %."""


class AFILite(DenseInterpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W.

    Args:
        channels: C of the maps.
        blocks: dense blocks in the residual group.
        reduction: C divided by B, unless that exceeds 96; each convolution of a dense block adds a quarter of B.
        residual_scale: weight of the residual of a dense block, and of the residual group.

    Raises:
        UserError: an argument that is not a positive number.
    """

    kind = "afi-lite"

    def __init__(self, channels: int = 256, blocks: int = 3, reduction: int = 4, residual_scale: float = 0.2) -> None:
        super().__init__(channels, blocks=blocks, reduction=reduction, residual_scale=residual_scale)
        self.residual_scale = residual_scale
        width = min(max(1, channels // reduction), _MAX_WIDTH)
        growth = max(1, width // 4)
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.group = nn.Sequential(*(DenseBlock(width, growth, residual_scale) for _ in range(blocks)))
        self.fuse = nn.Conv2d(width, width, 3, padding=1)
        self.enlarge = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(width, channels, 3, padding=1)
        init_branch(self)
