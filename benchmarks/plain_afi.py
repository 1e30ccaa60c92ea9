"""AFI-GAN's two networks as a direct transcription of the published arithmetic: the reference of speed and equality.

Lee and Bae, Pattern Recognition 2023, https://doi.org/10.1016/j.patcog.2023.109365. Eager, out of place, every
concatenation a new tensor.

Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NEGATIVE_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2
_GROWING_CONVS = 4


class PlainDenseBlock(nn.Module):
    """Residual dense block (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        widths = [channels + i * growth for i in range(_GROWING_CONVS)]
        self.grow = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths)
        self.merge = nn.Conv2d(channels + _GROWING_CONVS * growth, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        maps = [x]
        for conv in self.grow:
            maps.append(F.leaky_relu(conv(torch.cat(maps, dim=1)), _NEGATIVE_SLOPE))
        return x + _RESIDUAL_SCALE * self.merge(torch.cat(maps, dim=1))


class PlainAFInterpolator(nn.Module):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), with the tensor names of ``AFInterpolator``.

    Args:
        channels: C of the maps.
        blocks: residual dense blocks.
        growth: channels that each convolution of a block adds.
    """

    def __init__(self, channels: int = 256, blocks: int = 3, growth: int = 32) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, channels, 3, padding=1)
        self.group = nn.Sequential(*(PlainDenseBlock(channels, growth) for _ in range(blocks)))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.enlarge = nn.ConvTranspose2d(channels, channels, 6, stride=2, padding=2)
        self.tail = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, coarse: Tensor) -> Tensor:
        """Enlarge ``coarse``."""
        x = F.leaky_relu(self.head(coarse), _NEGATIVE_SLOPE)
        x = x + _RESIDUAL_SCALE * self.group(x)
        x = F.leaky_relu(self.fuse(x), _NEGATIVE_SLOPE)
        x = F.leaky_relu(self.enlarge(x), _NEGATIVE_SLOPE)
        bilinear = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return bilinear + self.tail(x)


class PlainDiscriminator(nn.Module):
    """Features (N, C, H, W) -> logits (N, 1, H, W), with the tensor names of ``PatchDiscriminator``.

    Args:
        channels: C of the features.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels, 4 * channels]
        self.convs = nn.ModuleList(nn.Conv2d(width, widths[k + 1], 3, padding=1) for k, width in enumerate(widths[:3]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.logits = nn.Conv2d(widths[3], 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits of ``features``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = F.leaky_relu(norm(conv(features)), _NEGATIVE_SLOPE)
        logits: Tensor = self.logits(features)
        return logits
