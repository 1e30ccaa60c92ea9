"""Faster R-CNN (Ren et al., https://arxiv.org/abs/1506.01497) on a feature pyramid."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from afictl.detectors.rcnn import RCNNHead
from afictl.detectors.region_layers import AlignedRoIPool, BoxPredictor, build_box_head
from afictl.detectors.roi_heads import RegionHeads
from afictl.detectors.rpn import build_rpn
from afictl.presets.architecture import RCNNConfig

POOLED_SIZE = 7
"""Height and width of a region that is pooled for its class and box."""


def build_faster_rcnn_head(
    config: RCNNConfig, channels: int, strides: Mapping[str, int], num_classes: int, **mask_branch: nn.Module
) -> RCNNHead:
    """Head for maps of ``channels`` channels at ``strides``; regions are pooled from all levels but the last.

    ``mask_branch`` are the mask modules of ``RegionHeads``, given by Mask R-CNN.
    """
    roi_heads = RegionHeads(
        AlignedRoIPool(region_strides(strides), POOLED_SIZE),
        build_box_head(channels, POOLED_SIZE, config.fc_width, kind=config.box_head, norm=config.head_norm),
        BoxPredictor(config.fc_width, num_classes),
        roi_batch=config.roi_batch,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        max_detections=config.max_detections,
        **mask_branch,
    )
    return RCNNHead(build_rpn(config, channels, strides), roi_heads)


def region_strides(strides: Mapping[str, int]) -> dict[str, int]:
    """The levels that regions are pooled from: all but the coarsest, which has proposals only."""
    return dict(list(strides.items())[:-1])
