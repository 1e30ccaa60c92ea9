"""ResNets (https://arxiv.org/abs/1512.03385) and ResNeSts (https://arxiv.org/abs/2004.08955) of timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from afictl.backbones.backbone import LEVELS, Backbone, create_net
from afictl.backbones.checkpointing import CheckpointedSequential
from afictl.errors import UserError
from afictl.presets import BackboneConfig

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(Backbone):
    """A ResNet or ResNeSt; the keys of ``net`` are those of timm's or torchvision's classifier.

    Raises:
        UserError: a wrong option, or ``stride_in_1x1`` for a network without plain bottlenecks.
    """

    def __init__(self, config: BackboneConfig, levels: Sequence[str] = LEVELS) -> None:
        net = create_net(config, TimmResNet, [LEVELS.index(level) + 1 for level in levels])
        if config.stride_in_1x1:
            _move_strides(net, config.name)
        super().__init__(config, net, levels, _STAGES)
        if config.checkpointing:
            for name in _STAGES:
                if name in net:
                    net[name] = CheckpointedSequential(cast(nn.Sequential, net[name]))

    def plain_to_net(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's or torchvision's classifier without the classifier."""
        return {name: value for name, value in tensors.items() if not name.startswith("fc.")}


def _move_strides(net: nn.Module, name: str) -> None:
    blocks = [module for module in net.modules() if isinstance(module, Bottleneck) and module.conv2.stride != (1, 1)]
    if not blocks:
        raise UserError(f"backbone.stride_in_1x1: {name} has no bottlenecks that stride in a 3x3; set it to false")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
