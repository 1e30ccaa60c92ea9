"""Cascade R-CNN (Cai and Vasconcelos, https://arxiv.org/abs/1712.00726): three box heads in a row.

Legend: R regions of a batch, K classes without background. Label 0 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, clip_boxes_to_image

from afictl.detectors.faster_rcnn import POOLED_SIZE, region_strides
from afictl.detectors.head import FeatureMaps, Losses, Target
from afictl.detectors.mask_rcnn import build_mask_branch
from afictl.detectors.rcnn import RCNNHead
from afictl.detectors.region_layers import AlignedRoIPool, BoxPredictor, build_box_head
from afictl.detectors.roi_heads import RegionHeads, RegionSamples, box_losses
from afictl.detectors.rpn import build_rpn, nonempty
from afictl.presets.architecture import MaskedRCNNConfig, RCNNConfig

_MIN_IOUS = (0.5, 0.6, 0.7)
"""Lowest overlap with an object at which a region of each stage is that object."""
_DELTA_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""Factors on the box deltas of each stage, which are smaller in later stages."""


def build_cascade_rcnn_head(
    config: RCNNConfig, channels: int, strides: Mapping[str, int], num_classes: int, **mask_branch: nn.Module
) -> RCNNHead:
    """Head for maps of ``channels`` channels at ``strides``; regions are pooled from all levels but the last.

    ``mask_branch`` are the mask modules of ``RegionHeads``, given by Cascade Mask R-CNN.
    """
    roi_heads = CascadeHeads(
        AlignedRoIPool(region_strides(strides), POOLED_SIZE),
        nn.ModuleList(
            build_box_head(channels, POOLED_SIZE, config.fc_width, kind=config.box_head, norm=config.head_norm)
            for _ in _MIN_IOUS
        ),
        nn.ModuleList(BoxPredictor(config.fc_width, num_classes, class_agnostic=True) for _ in _MIN_IOUS),
        roi_batch=config.roi_batch,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        max_detections=config.max_detections,
        **mask_branch,
    )
    return RCNNHead(build_rpn(config, channels, strides), roi_heads)


def build_cascade_mask_rcnn_head(
    config: MaskedRCNNConfig, channels: int, strides: Mapping[str, int], num_classes: int
) -> RCNNHead:
    """``build_cascade_rcnn_head`` with Mask R-CNN's mask branch."""
    branch = build_mask_branch(config, channels, strides, num_classes)
    return build_cascade_rcnn_head(config, channels, strides, num_classes, **branch)


class CascadeHeads(RegionHeads):
    """Three box heads in a row, as detectron2 trains and runs them.

    The first stage trains on sampled regions; each later one on all boxes of the stage before it, matched again
    with a higher overlap. Detections take the last stage's boxes and the mean of all stages' probabilities. The
    mask head trains on the objects among the first stage's regions and runs on the final boxes.

    The arguments are those of ``RegionHeads``; ``box_head`` and ``box_predictor``, which is class-agnostic, are module
    lists with an item for each stage.
    """

    matchers = tuple(Matcher(iou, iou, allow_low_quality_matches=False) for iou in _MIN_IOUS)
    box_coders = tuple(BoxCoder(weights) for weights in _DELTA_WEIGHTS)

    @property
    def box_stages(self) -> list[tuple[nn.Module, nn.Module]]:
        """The box heads that every region passes, each with its predictor."""
        return list(zip(self.box_head, self.box_predictor, strict=True))

    def classify(
        self, features: FeatureMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]], stage: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, 1 + K) and box deltas (R, 4) of the regions ``boxes`` from ``stage``."""
        pooled = self.box_roi_pool(features, boxes, image_shapes)
        if pooled.requires_grad:
            # The gradient of all stages together has the scale of that of one head.
            pooled.register_hook(lambda gradient: gradient / len(self.box_stages))
        head, predictor = self.box_stages[stage]
        return predictor(head(pooled))

    def match(self, boxes: Tensor, target: Target, stage: int) -> tuple[Tensor, Tensor]:
        """Target labels (R,) and deltas (R, 4) of one image's ``boxes`` (R, 4) at the overlap of ``stage``."""
        objects, labels = target["boxes"].to(boxes.dtype), target["labels"]
        if not len(objects) or not len(boxes):
            return labels.new_zeros(len(boxes)), torch.zeros_like(boxes)
        matches = self.matchers[stage](box_iou(objects, boxes))
        nearest = matches.clamp(min=0)
        deltas = self.box_coders[stage].encode_single(objects[nearest], boxes)
        return labels[nearest].where(matches >= 0, 0), deltas

    def refine(
        self, boxes: list[Tensor], deltas: Tensor, image_shapes: list[tuple[int, int]], stage: int
    ) -> list[Tensor]:
        """The ``boxes`` moved by the ``deltas`` of ``stage`` and clipped to their images, without a gradient."""
        moved = self.box_coders[stage].decode_single(deltas.detach(), torch.cat(boxes))
        images = zip(moved.split([box.shape[0] for box in boxes]), image_shapes, strict=True)
        return [clip_boxes_to_image(image_boxes, shape) for image_boxes, shape in images]

    def _box_losses(
        self,
        features: FeatureMaps,
        samples: RegionSamples,
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Target],
    ) -> Losses:
        boxes, losses = samples.boxes, {}
        matches = list(zip(samples.labels, samples.deltas, strict=True))
        for stage in range(len(self.box_stages)):
            logits, deltas = self.classify(features, boxes, image_shapes, stage)
            labels, target_deltas = (torch.cat(values) for values in zip(*matches, strict=True))
            stage_losses = box_losses(logits, deltas, labels, target_deltas)
            losses.update({f"{name}_{stage + 1}": value for name, value in stage_losses.items()})
            if stage + 1 < len(self.box_stages):
                boxes = [box[nonempty(box)] for box in self.refine(boxes, deltas, image_shapes, stage)]
                matches = [self.match(box, target, stage + 1) for box, target in zip(boxes, targets, strict=True)]
        return losses

    def _score(
        self, features: FeatureMaps, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        boxes, scores = proposals, []
        for stage in range(len(self.box_stages)):
            logits, deltas = self.classify(features, boxes, image_shapes, stage)
            scores.append(logits.softmax(-1)[:, 1:])
            boxes = self.refine(boxes, deltas, image_shapes, stage)
        mean = torch.stack(scores).mean(dim=0)
        return torch.cat(boxes)[:, None].expand(-1, mean.shape[1], -1), mean
