"""Mask R-CNN (He et al., https://arxiv.org/abs/1703.06870): Faster R-CNN with a mask branch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from afictl.detectors.faster_rcnn import build_faster_rcnn_head, region_strides
from afictl.detectors.rcnn import RCNNHead
from afictl.detectors.region_layers import AlignedRoIPool, MaskPredictor, build_mask_head
from afictl.presets.architecture import MaskedRCNNConfig

_POOLED_SIZE = 14


def build_mask_rcnn_head(
    config: MaskedRCNNConfig, channels: int, strides: Mapping[str, int], num_classes: int
) -> RCNNHead:
    """Head for maps of ``channels`` channels at ``strides``; masks are 28 x 28 on each box."""
    branch = build_mask_branch(config, channels, strides, num_classes)
    return build_faster_rcnn_head(config, channels, strides, num_classes, **branch)


def build_mask_branch(
    config: MaskedRCNNConfig, channels: int, strides: Mapping[str, int], num_classes: int
) -> dict[str, nn.Module]:
    """The mask modules of ``RegionHeads``, by the name of its argument."""
    return {
        "mask_roi_pool": AlignedRoIPool(region_strides(strides), _POOLED_SIZE),
        "mask_head": build_mask_head(channels, config.mask_width, norm=config.head_norm),
        "mask_predictor": MaskPredictor(config.mask_width, num_classes),
    }
