"""Bidirectional feature pyramid network (Tan et al., EfficientDet, https://arxiv.org/abs/1911.09070).

One implementation of two published forms: that of the public AFI-GAN (``fusion: raw, skips: input,
blocks: separable, repeats: 7``) and that of AdelaiDet's FCOS (the defaults of ``NeckConfig``).
Shapes: N images, C channels, H x W the image, h x w a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators import Interpolator
from afictl.necks.convs import initialise
from afictl.necks.enlarge import enlarge_to
from afictl.presets import NeckConfig

Maps = dict[str, Tensor]

_SOURCES = {"p3": "res3", "p4": "res4", "p5": "res5", "p6": "res5"}
# The nodes of a layer in the order in which they are computed, each with the neighbour that it takes in.
_TOP_DOWN = {"p6": "p7", "p5": "p6", "p4": "p5", "p3": "p4"}
_BOTTOM_UP = {"p4": "p3", "p5": "p4", "p6": "p5", "p7": "p6"}


class BiFPN(nn.Module):
    """``res3..res5`` -> ``p3..p7``, all with the same number of channels.

    Args:
        config: ``channels``, ``repeats``, ``fusion``, ``skips`` and ``blocks`` are read.
        in_channels: channels of ``res3..res5``.
        interpolator: one module for all enlargements, four in a layer, called ``interpolator(coarse, fine)``.
    """

    size_divisor = 128

    def __init__(self, config: NeckConfig, in_channels: Mapping[str, int], interpolator: Interpolator) -> None:
        super().__init__()
        self.channels = config.channels
        self.strides = {f"p{i}": 2**i for i in range(3, 8)}
        self.interpolator = interpolator
        self.inputs = BiFPNInputs(config, in_channels)
        self.layers = nn.ModuleList(BiFPNLayer(config) for _ in range(config.repeats))
        self.enlargements = len(_TOP_DOWN) * config.repeats
        self._skips = config.skips
        self.inputs.apply(initialise)
        self.layers.apply(initialise)

    def forward(self, features: Mapping[str, Tensor]) -> Maps:
        """``res{i}`` (N, c_i, H / 2^i, W / 2^i) -> ``p{i}`` (N, C, H / 2^i, W / 2^i), rounded up.

        Raises:
            ValueError: in train mode, one image alone of at most 128 x 128: its p7 is one position, too few for
                batch norm.
        """
        inputs, skips = self.inputs(features)
        maps = inputs
        for layer in self.layers:
            maps = layer(maps, skips, self.interpolator)
            skips = inputs if self._skips == "input" else maps
        return maps


class BiFPNInputs(nn.Module):
    """What the first layer sees: each use of a backbone map has a 1x1 convolution and batch norm of its own."""

    def __init__(self, config: NeckConfig, in_channels: Mapping[str, int]) -> None:
        super().__init__()
        self._blocks = config.blocks

        def project(level: str) -> nn.Sequential:
            # Both published forms give p6 torch's batch norm, whatever the other norms are.
            norm = nn.BatchNorm2d(config.channels) if level == "p6" else _norm(config)
            return nn.Sequential(nn.Conv2d(in_channels[_SOURCES[level]], config.channels, 1), norm)

        self.laterals = nn.ModuleDict({level: project(level) for level in _SOURCES})
        self.skips = nn.ModuleDict({level: project(level) for level in ("p4", "p5")})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
        """Backbone maps -> the maps p3..p7 of the way down, and p4..p7 for the way up."""
        maps = {level: lateral(features[_SOURCES[level]]) for level, lateral in self.laterals.items()}
        maps["p6"] = halve(maps["p6"], self._blocks)
        maps["p7"] = halve(maps["p6"], self._blocks)
        return maps, maps | {level: skip(features[_SOURCES[level]]) for level, skip in self.skips.items()}


class BiFPNLayer(nn.Module):
    """One way down from p7 to p3 and up again: eight nodes, each a weighted sum and a convolution block."""

    def __init__(self, config: NeckConfig) -> None:
        super().__init__()
        self._blocks = config.blocks
        self.top_down = nn.ModuleDict({level: FusionNode(config, 2) for level in _TOP_DOWN})
        # p7 has no node on the way down, so that its node on the way up has one map less.
        self.bottom_up = nn.ModuleDict(
            {level: FusionNode(config, 3 if level in _TOP_DOWN else 2) for level in _BOTTOM_UP}
        )

    def forward(self, maps: Maps, skips: Maps, interpolator: Interpolator) -> Maps:
        """Maps p3..p7 (N, C, h, w) -> the same levels; the way up also sees ``skips`` p4..p7."""
        down = {"p7": maps["p7"]}
        for level, coarser in _TOP_DOWN.items():
            enlarged = enlarge_to(interpolator, down[coarser], maps[level])
            down[level] = self.top_down[level](maps[level], enlarged)
        out = {"p3": down["p3"]}
        for level, finer in _BOTTOM_UP.items():
            between = [down[level]] if level in _TOP_DOWN else []
            out[level] = self.bottom_up[level](skips[level], *between, halve(out[finer], self._blocks))
        return out


class FusionNode(nn.Module):
    """Weighted sum of maps of one size, then swish, convolution and batch norm."""

    def __init__(self, config: NeckConfig, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(count))
        self.block = _block(config)
        self._fast = config.fusion == "fast"

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (N, C, h, w), as many as the node has weights -> (N, C, h, w)."""
        first, *others = (share * value for share, value in zip(self.shares(), maps, strict=True))
        return self.block(sum(others, start=first))

    def shares(self) -> Tensor:
        """What each map counts: the weights as they are, or positive and of sum one (fast normalised fusion)."""
        if not self._fast:
            return self.weights
        positive = F.relu(self.weights)
        return positive / (positive.sum() + 1e-4)


def halve(x: Tensor, blocks: Literal["plain", "separable"]) -> Tensor:
    """Max-pool (N, C, h, w) to half its size, rounded up, with the borders of ``NeckConfig.blocks``."""
    if blocks == "plain":
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    # An even size reaches only the first row and column of zeros, an odd one both.
    return F.max_pool2d(F.pad(x, (0, 2, 0, 2)), kernel_size=3, stride=2)


def _block(config: NeckConfig) -> nn.Sequential:
    channels = config.channels
    if config.blocks == "plain":
        convs = [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    else:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        convs = [depthwise, nn.Conv2d(channels, channels, 1)]
    return nn.Sequential(nn.SiLU(), *convs, _norm(config))


def _norm(config: NeckConfig) -> nn.BatchNorm2d:
    """EfficientDet's batch norm, or torch's."""
    if config.blocks == "plain":
        return nn.BatchNorm2d(config.channels)
    return nn.BatchNorm2d(config.channels, eps=1e-3, momentum=0.01)
