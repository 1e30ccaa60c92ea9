"""Feature patch discriminator of AFI-GAN: one logit per position, real against interpolated features.

Lee and Bae, https://doi.org/10.1016/j.patcog.2023.109365. Legend: N images, C channels, H x W the feature map.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators.winograd import Conv3x3, prefers_channels_last

_NEGATIVE_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Features (N, C, H, W) -> logits (N, 1, H, W), positive for real; receptive field 9 x 9, stride 1.

    In train mode the batch needs more than one value per channel (batch norm).

    Args:
        channels: C of the features; the hidden layers have 2C, 4C and 4C channels.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.channels = channels
        widths = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.convs = nn.ModuleList(Conv3x3(before, after) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.logits = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for conv in (*self.convs, self.logits):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits (N, 1, H, W) of ``features`` (N, C, H, W)."""
        is_fast = prefers_channels_last(features, self.channels)
        x = features.contiguous(memory_format=torch.channels_last) if is_fast else features
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), _NEGATIVE_SLOPE, inplace=True)
        return self.logits(x)
