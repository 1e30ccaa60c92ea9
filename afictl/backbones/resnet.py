"""ResNets of timm behind one interface: images in, ``res2..res5`` out.

Shapes: N images, H x W pixels. Detectron2's names: the stem is stage 1, ``res2`` (timm's ``layer1``) stage 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import timm
from timm.models import FeatureListNet, is_model_in_modules
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from afictl.backbones.norms import freeze_batch_norm
from afictl.errors import UserError, did_you_mean
from afictl.presets import BackboneConfig

LEVELS = ("res2", "res3", "res4", "res5")
_STAGES = ("layer1", "layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """A timm ResNet, with the stages and norms frozen that ``config`` names, and random weights.

    Attributes:
        net: timm's feature extractor; its keys are those of a timm or torchvision ResNet without ``fc``.
        channels: channels of each level.
        strides: pixels a position of each level.

    Raises:
        UserError: no ResNet of that name, or ``stride_in_1x1`` for one without bottlenecks.
    """

    def __init__(self, config: BackboneConfig, levels: Sequence[str] = LEVELS) -> None:
        super().__init__()
        self.name = config.name
        self.net = _create(config.name, levels)
        info = self.net.feature_info
        self._levels = list(levels)
        self.channels: dict[str, int] = dict(zip(self._levels, info.channels(), strict=True))
        self.strides: dict[str, int] = dict(zip(self._levels, info.reduction(), strict=True))
        if config.stride_in_1x1:
            _move_strides(self.net, config.name)
        if config.norm == "frozen-batch":
            freeze_batch_norm(self.net)
        for name in _parts_of_stages(self.net, config.frozen_stages):
            self.net[name] = freeze_batch_norm(self.net[name]).requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised ``images`` (N, 3, H, W) -> ``res{i}`` (N, channels, H / 2^i, W / 2^i), rounded up."""
        return dict(zip(self._levels, self.net(images), strict=True))


def _parts_of_stages(net: nn.Module, count: int) -> list[str]:
    """Names of the parts of ``net`` that make up its first ``count`` stages: the stem, then ``res2``, ..."""
    stem = [name for name, _ in net.named_children() if name not in _STAGES]
    return [*stem, *_STAGES[: count - 1]] if count else []


def _create(name: str, levels: Sequence[str]) -> FeatureListNet:
    architecture = name.split(".")[0]
    if not is_model_in_modules(architecture, {"resnet"}):
        hint = did_you_mean(architecture, timm.list_models(module="resnet"))
        raise UserError(f"backbone.name: '{name}' is not a ResNet of timm{hint}")
    indices = [LEVELS.index(level) + 1 for level in levels]
    try:
        net = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices)
    except RuntimeError as error:  # an unknown weight tag
        raise UserError(f"backbone.name: '{name}': {error}") from None
    return cast(FeatureListNet, net)


def _move_strides(net: nn.Module, name: str) -> None:
    bottlenecks = [module for module in net.modules() if isinstance(module, Bottleneck)]
    if not bottlenecks:
        raise UserError(f"backbone.stride_in_1x1: {name} has no bottlenecks; set it to false")
    for block in bottlenecks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
