"""Faster R-CNN (Ren et al., https://arxiv.org/abs/1506.01497) on a feature pyramid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afictl.detectors.rcnn import RCNNHead
from afictl.detectors.roi_heads import AlignedRoIPool, BoxPredictor, RegionHeads, build_box_head
from afictl.detectors.rpn import build_rpn
from afictl.presets import DetectorConfig

_POOLED = 7


def faster_rcnn_head(
    config: DetectorConfig, channels: int, strides: Mapping[str, int], num_classes: int, **mask_branch: Any
) -> RCNNHead:
    """Head for maps of ``channels`` channels at ``strides``; regions are cut from all levels but the last.

    ``mask_branch`` are the mask modules of ``RegionHeads``, given by Mask R-CNN.
    """
    roi_heads = RegionHeads(
        AlignedRoIPool(region_strides(strides), _POOLED),
        build_box_head(channels, _POOLED, config.fc_width),
        BoxPredictor(config.fc_width, num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.roi_batch,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.max_detections,
        **mask_branch,
    )
    return RCNNHead(build_rpn(config, channels, strides), roi_heads, num_classes)


def region_strides(strides: Mapping[str, int]) -> dict[str, int]:
    """The levels that regions are cut from: the coarsest serves proposals only."""
    return dict(list(strides.items())[:-1])
