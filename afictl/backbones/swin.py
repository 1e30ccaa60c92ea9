"""Swin Transformers of timm (https://arxiv.org/abs/2103.14030) for detectors: any image size, layer norm per level."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, cast

from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformer, SwinTransformerStage
from torch import Tensor, nn

from afictl.backbones.backbone import LEVELS, Backbone, create_net, parts_of_stages
from afictl.backbones.checkpointing import CheckpointedSequential
from afictl.backbones.options import SwinOptions
from afictl.errors import UserError

_STAGES = ("layers_0", "layers_1", "layers_2", "layers_3")
# The classifier, its norm, and tables that follow from the window size.
_NOT_IN_NET = re.compile(r"head\.|norm\.|.*\.(relative_position_index|attn_mask)$")


class Swin(Backbone):
    """A Swin Transformer with new layer norms on the levels, as in the paper's detectors.

    The merging of patches before a stage belongs to that stage, as a ResNet's stride does; in Microsoft's files
    it is the end of the stage before. The norms of the levels are trained whatever stages are frozen. The arguments
    are keys of ``BackboneConfig``.

    Attributes:
        norms: layer norm of each level over its channels.

    Raises:
        UserError: an invalid option, or ``stride_in_1x1``.
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
        if stride_in_1x1:
            raise UserError(f"backbone.stride_in_1x1: {name} has no bottlenecks; set it to false")
        net = create_net(
            name,
            options,
            SwinTransformer,
            SwinOptions,
            [LEVELS.index(level) for level in levels],
            img_size=224,  # without effect, as both of the next are set
            strict_img_size=False,
            always_partition=True,  # or the last stages would not shift their windows: 224 pixels fill only one
            embed_layer=partial(PatchEmbed, dynamic_img_pad=True),
        )
        super().__init__(name, net, levels, norm=norm, frozen=parts_of_stages(net, _STAGES, frozen_stages))
        self.norms = nn.ModuleDict({level: nn.LayerNorm(width) for level, width in self.channels.items()})
        if checkpointing:
            for part in _STAGES:
                if part in net:
                    stage = cast(SwinTransformerStage, net[part])
                    stage.blocks = CheckpointedSequential(stage.blocks)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised ``images`` (N, 3, H, W) -> its levels, finest first; any H and W."""
        maps = super().forward(images)  # (N, H / stride, W / stride, channels)
        return {level: self.norms[level](value).permute(0, 3, 1, 2).contiguous() for level, value in maps.items()}

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's or Microsoft's classifier under the names in ``net``, without its last layer."""
        # Only Microsoft's first stage ends with a merging: there, it is the end of a stage.
        shift = int("layers.0.downsample.reduction.weight" in tensors)
        return {_net_name(name, shift): value for name, value in tensors.items() if not _NOT_IN_NET.match(name)}


def _net_name(name: str, shift: int) -> str:
    """A classifier's name -> that in ``net``; ``shift`` is added to the stage of a merging."""
    name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers_{int(match[1]) + shift}.downsample", name)
    return re.sub(r"^layers\.(\d+)", r"layers_\1", name)
