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
from torchvision.ops import batched_nms, clip_boxes_to_image

from afictl.detectors.masks import mask_loss, mask_targets
from afictl.detectors.region_layers import AlignedRoIPool
from afictl.detectors.rpn import nonempty


def box_losses(logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the classes and L1 of the objects' boxes, both divided by the number of regions.

    detectron2's box loss is L1, torchvision's smooth L1 with beta 1/9.

    Args:
        logits: (R, 1 + K).
        deltas: (R, 4K), or (R, 4) where all classes share a box.
        labels: (R,) int64 in 0..K.
        wanted: (R, 4) encoded ground truth.
    """
    count = max(1, len(labels))
    objects = torch.where(labels > 0)[0]
    boxes = deltas.unflatten(1, (-1, 4))
    own = boxes[objects, (labels[objects] - 1).clamp(max=boxes.shape[1] - 1)]
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": F.l1_loss(own, wanted[objects], reduction="sum") / count,
    }


class Samples(NamedTuple):
    """Regions to train on, a list item for each image of r regions."""

    boxes: list[Tensor]
    """(r, 4) pixels."""
    matched: list[Tensor]
    """(r,) int64, the object of each region."""
    labels: list[Tensor]
    """(r,) int64 in 0..K."""
    deltas: Sequence[Tensor]
    """(r, 4) encoded ground truth."""


class RegionHeads(RoIHeads):
    """Box head, and mask head if there is one; matching and sampling are torchvision's.

    ``forward`` answers ``(detections, losses)`` as torchvision's does, but without masks, which ``segment`` adds.

    Args:
        box_roi_pool: cuts the regions out.
        box_head: pooled regions -> (R, width).
        box_predictor: (R, width) -> class logits and box deltas.
        roi_batch: regions sampled an image for the losses, a quarter of them objects.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU from which the weaker of two boxes of a class is dropped.
        max_detections: of an image.
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
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
            **mask_branch,
        )

    @property
    def box_stages(self) -> list[tuple[nn.Module, nn.Module]]:
        """The box heads that every region passes, each with its predictor."""
        return [(self.box_head, self.box_predictor)]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in train mode, detections in eval mode; ``proposals`` are (n, 4) pixels for each image."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets or [])
        return self._detect(features, proposals, image_shapes), {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        samples = Samples(*self.select_training_samples(proposals, targets))
        losses = self._box_losses(features, samples, image_shapes, targets)
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, samples, image_shapes, targets)
        return losses

    def _box_losses(
        self,
        features: dict[str, Tensor],
        samples: Samples,
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        answer = self.classify(features, samples.boxes, image_shapes)
        return box_losses(*answer, torch.cat(samples.labels), torch.cat(list(samples.deltas)))

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        samples: Samples,
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        objects = [label > 0 for label in samples.labels]
        boxes, matched, labels = (_select(each, objects) for each in samples[:3])
        logits = self.mask_logits(features, boxes, image_shapes)
        wanted = [
            mask_targets(target["masks"], box, index, logits.shape[-1])
            for target, box, index in zip(targets, boxes, matched, strict=True)
        ]
        return mask_loss(logits, torch.cat(labels), torch.cat(wanted))

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        boxes, scores = self._score(features, proposals, image_shapes)
        counts = [len(proposal) for proposal in proposals]
        return [
            self._best(*image) for image in zip(boxes.split(counts), scores.split(counts), image_shapes, strict=True)
        ]

    def _score(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """The box (R, K, 4) of each region for each class, clipped or not, and its score (R, K)."""
        logits, deltas = self.classify(features, proposals, image_shapes)
        boxes = self.box_coder.decode_single(deltas, torch.cat(proposals)).unflatten(1, (-1, 4))
        return boxes, logits.softmax(-1)[:, 1:]

    def _best(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """One image's detections, best first, from boxes (R, K, 4) and scores (R, K)."""
        boxes = clip_boxes_to_image(boxes, shape)
        region, label = torch.where((scores > self.score_thresh) & nonempty(boxes))
        boxes, scores = boxes[region, label], scores[region, label]
        keep = batched_nms(boxes, scores, label, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "labels": label[keep] + 1, "scores": scores[keep]}

    def segment(
        self,
        features: dict[str, Tensor],
        detections: Sequence[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """The detections with the mask of each box's own class as probabilities on its grid, ``mask_probs`` (n, M, M).

        ``detections`` have for each image ``boxes`` (n, 4) pixels and ``labels`` (n,) in 1..K.
        """
        boxes = [detection["boxes"] for detection in detections]
        labels = torch.cat([detection["labels"] for detection in detections])
        logits = self.mask_logits(features, boxes, image_shapes)
        probs = logits[torch.arange(len(labels), device=labels.device), labels - 1].sigmoid()
        parts = probs.split([len(box) for box in boxes])
        return [{**each, "mask_probs": part} for each, part in zip(detections, parts, strict=True)]

    def classify(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, 1 + K) and box deltas (R, 4K) of the regions ``boxes``."""
        return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))

    def mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Mask logits (R, K, M, M) of the regions ``boxes``."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))


def _select(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    return [tensor[mask] for tensor, mask in zip(tensors, masks, strict=True)]
