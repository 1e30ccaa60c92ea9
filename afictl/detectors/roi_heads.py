"""Heads on regions of interest: torchvision's sampling and matching with detectron2's losses.

Legend: R regions of a batch, K classes without background, M x M the mask grid. Label 0 is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image

from afictl.detectors.head import Detections, FeatureMaps, Losses, Target
from afictl.detectors.masks import mask_loss, mask_targets, select_class
from afictl.detectors.region_layers import AlignedRoIPool
from afictl.detectors.rpn import nonempty
from afictl.detectors.sampling import ImageSampler
from afictl.detectors.suppression import grouped_nms
from afictl.total_batch import loss_divisor

_OBJECT_FRACTION = 0.25  # of a sample, at most


def box_losses(logits: Tensor, deltas: Tensor, labels: Tensor, target_deltas: Tensor) -> Losses:
    """Cross-entropy of the classes and L1 of the objects' boxes, both divided by the number of regions of all ranks.

    detectron2's box loss is L1, torchvision's smooth L1 with beta 1/9.

    Args:
        logits: (R, 1 + K).
        deltas: (R, 4K), or (R, 4) where all classes share a box.
        labels: (R,) int64 in 0..K.
        target_deltas: (R, 4) encoded ground truth.
    """
    count = loss_divisor(len(labels), logits)
    objects = torch.where(labels > 0)[0]
    boxes = deltas.unflatten(1, (-1, 4))
    class_deltas = boxes[objects, (labels[objects] - 1).clamp(max=boxes.shape[1] - 1)]
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": F.l1_loss(class_deltas, target_deltas[objects], reduction="sum") / count,
    }


class RegionSamples(NamedTuple):
    """Sampled regions of a training batch, a list item for each image of r regions."""

    boxes: list[Tensor]
    """(r, 4) pixels."""
    matches: list[Tensor]
    """(r,) int64, index of the object of each region."""
    labels: list[Tensor]
    """(r,) int64 in 0..K."""
    deltas: Sequence[Tensor]
    """(r, 4) encoded ground truth."""


class RegionHeads(RoIHeads):
    """Box head, and mask head if there is one; matching and sampling are torchvision's.

    ``forward`` returns ``(detections, losses)`` as torchvision's does, but without masks, which ``segment`` adds.

    Args:
        box_roi_pool: pools the regions.
        box_head: pooled regions -> (R, width).
        box_predictor: (R, width) -> class logits and box deltas.
        roi_batch: regions sampled per image for the losses, a quarter of them objects.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU from which the weaker of two boxes of a class is dropped.
        max_detections: largest number per image.
        mask_branch: ``mask_roi_pool``, ``mask_head`` and ``mask_predictor``, or nothing.
    """

    def __init__(
        self,
        box_roi_pool: AlignedRoIPool,
        box_head: nn.Module,
        box_predictor: nn.Module,
        *,
        roi_batch: int,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        **mask_branch: nn.Module,
    ) -> None:
        super().__init__(
            box_roi_pool,
            box_head,
            box_predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=roi_batch,
            positive_fraction=_OBJECT_FRACTION,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
            **mask_branch,
        )
        self.fg_bg_sampler = ImageSampler(roi_batch, _OBJECT_FRACTION)

    @property
    def box_stages(self) -> list[tuple[nn.Module, nn.Module]]:
        """The box heads that every region passes, each with its predictor."""
        return [(self.box_head, self.box_predictor)]

    def forward(
        self,
        features: FeatureMaps,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> tuple[list[Detections], Losses]:
        """Losses in train mode, detections in eval mode; ``proposals`` are (n, 4) pixels for each image."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets or [])
        return self._detect(features, proposals, image_shapes), {}

    def _losses(
        self,
        features: FeatureMaps,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Target],
    ) -> Losses:
        samples = RegionSamples(*self.select_training_samples(proposals, targets))
        losses = self._box_losses(features, samples, image_shapes, targets)
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, samples, image_shapes, targets)
        return losses

    def _box_losses(
        self,
        features: FeatureMaps,
        samples: RegionSamples,
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Target],
    ) -> Losses:
        logits, deltas = self.classify(features, samples.boxes, image_shapes)
        return box_losses(logits, deltas, torch.cat(samples.labels), torch.cat(list(samples.deltas)))

    def _mask_loss(
        self,
        features: FeatureMaps,
        samples: RegionSamples,
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Target],
    ) -> Tensor:
        objects = [labels > 0 for labels in samples.labels]
        boxes, matches, labels = (_select(field, objects) for field in samples[:3])
        logits = self.mask_logits(features, boxes, image_shapes)
        masks = [
            mask_targets(target["masks"], image_boxes, indices, logits.shape[-1])
            for target, image_boxes, indices in zip(targets, boxes, matches, strict=True)
        ]
        return mask_loss(logits, torch.cat(labels), torch.cat(masks))

    def _detect(
        self, features: FeatureMaps, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        boxes, scores = self._score(features, proposals, image_shapes)
        counts = [image_proposals.shape[0] for image_proposals in proposals]
        images = zip(boxes.split(counts), scores.split(counts), image_shapes, strict=True)
        return [self._select_detections(*image) for image in images]

    def _score(
        self, features: FeatureMaps, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Boxes (R, K, 4) of each region for each class, clipped or not, and their scores (R, K)."""
        logits, deltas = self.classify(features, proposals, image_shapes)
        boxes = self.box_coder.decode_single(deltas, torch.cat(proposals)).unflatten(1, (-1, 4))
        return boxes, logits.softmax(-1)[:, 1:]

    def _select_detections(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]) -> Detections:
        """Detections of an image, best first, from boxes (R, K, 4) and scores (R, K)."""
        boxes = clip_boxes_to_image(boxes, shape)
        region, label = torch.where((scores > self.score_thresh) & nonempty(boxes))
        boxes, scores = boxes[region, label], scores[region, label]
        indices = grouped_nms(boxes, scores, label, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[indices], "labels": label[indices] + 1, "scores": scores[indices]}

    def segment(
        self, features: FeatureMaps, detections: Sequence[Detections], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        """The detections with ``mask_probs`` (n, M, M), for the class of each box and on its grid."""
        boxes = [detection["boxes"] for detection in detections]
        labels = torch.cat([detection["labels"] for detection in detections])
        logits = self.mask_logits(features, boxes, image_shapes)
        probs = select_class(logits, labels).sigmoid().split([box.shape[0] for box in boxes])
        return [{**detection, "mask_probs": prob} for detection, prob in zip(detections, probs, strict=True)]

    def classify(
        self, features: FeatureMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, 1 + K) and box deltas (R, 4K) of the regions ``boxes``."""
        return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))

    def mask_logits(self, features: FeatureMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Mask logits (R, K, M, M) of the regions ``boxes``."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))


def _select(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    return [tensor[mask] for tensor, mask in zip(tensors, masks, strict=True)]
