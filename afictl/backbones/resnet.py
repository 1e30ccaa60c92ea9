"""ResNets (https://arxiv.org/abs/1512.03385) and ResNeSts (https://arxiv.org/abs/2004.08955) of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from afictl.backbones.backbone import LEVELS, Backbone, create_net, parts_of_stages
from afictl.backbones.checkpointing import CheckpointedSequential
from afictl.backbones.options import ResNetOptions
from afictl.errors import UserError

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(Backbone):
    """A ResNet or ResNeSt; the keys of ``net`` are those of timm's or torchvision's classifier.

    The arguments are keys of ``BackboneConfig``.

    Raises:
        UserError: an invalid option, or ``stride_in_1x1`` for a network without plain bottlenecks.
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[str] = LEVELS,
        *,
        options: Mapping[str, object],
        frozen_stages: int,
        norm: Literal["batch", "frozen-batch"],
        stride_in_1x1: bool,
        checkpointing: bool,
    ) -> None:
        net = create_net(name, options, TimmResNet, ResNetOptions, [LEVELS.index(level) + 1 for level in levels])
        if stride_in_1x1:
            _move_strides(net, name)
        super().__init__(name, net, levels, norm=norm, frozen=parts_of_stages(net, _STAGES, frozen_stages))
        if checkpointing:
            for stage in _STAGES:
                if stage in net:
                    net[stage] = CheckpointedSequential(cast(nn.Sequential, net[stage]))

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's or torchvision's classifier without its last layer."""
        return {name: value for name, value in tensors.items() if not name.startswith("fc.")}


def resnet_key(name: str) -> str:
    """timm's name of a tensor of a ResNet (except the inner norms of a ResNeSt) -> detectron2's."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"(?<!conv2\.)bn(\d)\.", r"conv\1.norm.", name)


def has_stride_in_1x1(net: nn.Module) -> bool | None:
    """Whether the bottlenecks of any library's ResNet stride in their first 1x1 convolution; None without any."""
    convs = [getattr(block, "conv1", None) for block in net.modules() if hasattr(block, "conv3")]
    strides = {tuple(conv.stride) for conv in convs if isinstance(conv, nn.Conv2d)}
    return strides != {(1, 1)} if strides else None


def _move_strides(net: nn.Module, name: str) -> None:
    """Move the strides of bottlenecks from their 3x3 to their first 1x1 convolution."""
    blocks = [module for module in net.modules() if isinstance(module, Bottleneck) and module.conv2.stride != (1, 1)]
    if not blocks:
        raise UserError(f"backbone.stride_in_1x1: {name} has no bottlenecks that stride in a 3x3; set it to false")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
