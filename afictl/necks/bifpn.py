"""Bidirectional feature pyramid network (Tan et al., EfficientDet, https://arxiv.org/abs/1911.09070).

One implementation of two published forms: that of the public AFI-GAN (``fusion: raw, skips: input,
blocks: separable, repeats: 7``) and that of AdelaiDet's FCOS (the defaults of ``BiFPNConfig``).
Legend: N images, C channels, H x W the image, h x w a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators import Interpolator
from afictl.necks.neck import init_conv, upsample_to

Maps: TypeAlias = dict[str, Tensor]
Blocks: TypeAlias = Literal["plain", "separable"]
Fusion: TypeAlias = Literal["fast", "raw"]

_SOURCES = {"p3": "res3", "p4": "res4", "p5": "res5", "p6": "res5"}
# The nodes of a layer in the order in which they are computed, each with the neighbour that is fused into it.
_TOP_DOWN = {"p6": "p7", "p5": "p6", "p4": "p5", "p3": "p4"}
_BOTTOM_UP = {"p4": "p3", "p5": "p4", "p6": "p5", "p7": "p6"}


class BiFPN(nn.Module):
    """``res3..res5`` -> ``p3..p7``, all with the same number of channels.

    Args:
        in_channels: channels of ``res3..res5``.
        interpolator: one module for all upsampling, called ``interpolator(coarse, fine)`` four times per layer, or a
            ``PerStepInterpolator`` of ``num_upsamplers`` steps.
        channels: C.
        repeats: number of layers.
        fusion: fusion weights, normalised to positive weights of sum one (``fast``) or ``raw``.
        skips: second input of a layer's bottom-up path: the layer's input, or in every layer that of the first.
        blocks: form of the convolution blocks and of the pooling, see ``BiFPNConfig``.
    """

    size_divisor = 128

    def __init__(
        self,
        in_channels: Mapping[str, int],
        interpolator: Interpolator,
        *,
        channels: int,
        repeats: int = 6,
        fusion: Fusion = "fast",
        skips: Literal["layer", "input"] = "layer",
        blocks: Blocks = "plain",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.strides = {f"p{i}": 2**i for i in range(3, 8)}
        self.interpolator = interpolator
        self.inputs = BiFPNInputs(in_channels, channels, blocks)
        self.layers = nn.ModuleList(BiFPNLayer(channels, fusion, blocks) for _ in range(repeats))
        self.num_upsamplers = len(_TOP_DOWN) * repeats
        self._skips = skips
        self.inputs.apply(init_conv)
        self.layers.apply(init_conv)

    def forward(self, features: Mapping[str, Tensor]) -> Maps:
        """``res{i}`` (N, c_i, H / 2^i, W / 2^i) -> ``p{i}`` (N, C, H / 2^i, W / 2^i), rounded up.

        Raises:
            ValueError: in train mode, a single image of at most 128 x 128, whose p7 is too small for batch norm.
        """
        inputs, skips = self.inputs(features)
        maps = inputs
        for number, layer in enumerate(self.layers, start=1):
            maps = layer(maps, skips, self.interpolator, len(_TOP_DOWN) * (len(self.layers) - number))
            skips = inputs if self._skips == "input" else maps
        return maps


class BiFPNInputs(nn.Module):
    """Inputs of the first layer: a 1x1 convolution and batch norm for each use of a backbone map."""

    def __init__(self, in_channels: Mapping[str, int], channels: int, blocks: Blocks) -> None:
        super().__init__()
        self._blocks = blocks

        def project(level: str) -> nn.Sequential:
            # Both published forms give p6 torch's batch norm, whatever the other norms are.
            norm = nn.BatchNorm2d(channels) if level == "p6" else _make_norm(channels, blocks)
            return nn.Sequential(nn.Conv2d(in_channels[_SOURCES[level]], channels, 1), norm)

        self.laterals = nn.ModuleDict({level: project(level) for level in _SOURCES})
        self.skips = nn.ModuleDict({level: project(level) for level in ("p4", "p5")})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
        """Backbone maps -> the maps p3..p7 of the top-down path, and p4..p7 for the bottom-up path."""
        maps = {level: lateral(features[_SOURCES[level]]) for level, lateral in self.laterals.items()}
        maps["p6"] = downsample(maps["p6"], self._blocks)
        maps["p7"] = downsample(maps["p6"], self._blocks)
        return maps, maps | {level: skip(features[_SOURCES[level]]) for level, skip in self.skips.items()}


class BiFPNLayer(nn.Module):
    """Top-down path from p7 to p3 and bottom-up path back: eight nodes, each a weighted sum and a convolution block."""

    def __init__(self, channels: int, fusion: Fusion, blocks: Blocks) -> None:
        super().__init__()
        self._blocks = blocks
        self.top_down = nn.ModuleDict({level: FusionNode(channels, 2, fusion, blocks) for level in _TOP_DOWN})
        # p7 has no node in the top-down path, so that its node in the bottom-up path has one map less.
        self.bottom_up = nn.ModuleDict(
            {level: FusionNode(channels, 3 if level in _TOP_DOWN else 2, fusion, blocks) for level in _BOTTOM_UP}
        )

    def forward(self, maps: Maps, skips: Maps, interpolator: Interpolator, first_step: int = 0) -> Maps:
        """Maps p3..p7 (N, C, h, w) -> the same levels; ``skips`` p4..p7 are inputs of the bottom-up path too.

        ``first_step`` is the number of the layer's last enlargement, see ``PerStepInterpolator``.
        """
        down = {"p7": maps["p7"]}
        steps = reversed(range(first_step, first_step + len(_TOP_DOWN)))
        for step, (level, coarser) in zip(steps, _TOP_DOWN.items(), strict=True):
            upsampled = upsample_to(interpolator, down[coarser], maps[level], step)
            down[level] = self.top_down[level](maps[level], upsampled)
        out = {"p3": down["p3"]}
        for level, finer in _BOTTOM_UP.items():
            intermediate = [down[level]] if level in _TOP_DOWN else []
            out[level] = self.bottom_up[level](skips[level], *intermediate, downsample(out[finer], self._blocks))
        return out


class FusionNode(nn.Module):
    """Weighted sum of ``count`` maps of one size, then swish, convolution and batch norm."""

    def __init__(self, channels: int, count: int, fusion: Fusion, blocks: Blocks) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(count))
        self.block = _make_block(channels, blocks)
        self._fast = fusion == "fast"

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (N, C, h, w), as many as the node has weights -> (N, C, h, w)."""
        first, *rest = (weight * value for weight, value in zip(self.normalized_weights(), maps, strict=True))
        return self.block(sum(rest, start=first))

    def normalized_weights(self) -> Tensor:
        """Weight of each map: as stored, or positive and of sum one (fast normalised fusion)."""
        if not self._fast:
            return self.weights
        positive = F.relu(self.weights)
        return positive / (positive.sum() + 1e-4)


def downsample(x: Tensor, blocks: Blocks) -> Tensor:
    """Max-pool (N, C, h, w) to half its size, rounded up, with the borders of ``BiFPNConfig.blocks``."""
    if blocks == "plain":
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    # An even size reaches only the first row and column of zeros, an odd one both.
    return F.max_pool2d(F.pad(x, (0, 2, 0, 2)), kernel_size=3, stride=2)


def _make_block(channels: int, blocks: Blocks) -> nn.Sequential:
    if blocks == "plain":
        convs = [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    else:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        convs = [depthwise, nn.Conv2d(channels, channels, 1)]
    return nn.Sequential(nn.SiLU(), *convs, _make_norm(channels, blocks))


def _make_norm(channels: int, blocks: Blocks) -> nn.BatchNorm2d:
    """EfficientDet's batch norm, or torch's."""
    return nn.BatchNorm2d(channels) if blocks == "plain" else nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
