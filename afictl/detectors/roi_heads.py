"""Heads on regions of interest: torchvision's sampling and matching with detectron2's pooling and losses.

Legend: R regions of a batch, K classes without background, M x M the mask grid. Label 0 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align
from torchvision.ops.poolers import initLevelMapper

from afictl.detectors.masks import mask_loss, mask_targets
from afictl.detectors.rpn import nonempty
from afictl.presets import DetectorConfig


class AlignedRoIPool(MultiScaleRoIAlign):
    """Cut regions out of the level that fits their size, (R, C, size, size).

    detectron2's ROIAlignV2: aligned (no half-pixel shift), as many samples as a bin has pixels, and given
    scales; torchvision pools unaligned with 2 x 2 samples and guesses the scales from the image sizes.
    """

    def __init__(self, strides: Mapping[str, int], size: int) -> None:
        super().__init__(list(strides), size, sampling_ratio=0)
        self.scales = [1 / stride for stride in strides.values()]
        levels = [stride.bit_length() - 1 for stride in strides.values()]
        self.map_levels = initLevelMapper(levels[0], levels[-1])

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the ``boxes`` of each image, (n, 4) pixels, one image after the other."""
        images = torch.cat([box.new_full((len(box), 1), i) for i, box in enumerate(boxes)])
        regions = torch.cat((images, torch.cat(boxes)), dim=1).float()
        levels = self.levels(boxes, image_shapes)
        first = x[self.featmap_names[0]]
        pooled = first.new_zeros((len(regions), first.shape[1], *self.output_size))
        for level, (name, scale) in enumerate(zip(self.featmap_names, self.scales, strict=True)):
            here = torch.where(levels == level)[0]
            # RoIAlign computes in float32: positions in a half-precision map would be off by pixels.
            cut = roi_align(x[name].float(), regions[here], self.output_size, scale, aligned=True)
            pooled[here] = cut.to(pooled.dtype)
        return pooled

    def levels(self, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Position of the level that fits each region, (R,); by its size in pixels."""
        del image_shapes  # other rules look at them
        return self.map_levels(boxes)


class BoxPredictor(nn.Module):
    """(R, width) -> class logits (R, 1 + K), background first, and box deltas (R, 4B), both float32.

    B is K, or 1 where ``class_agnostic``: one box for all classes.
    """

    def __init__(self, width: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, 1 + num_classes)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        _zero_biases(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of the regions ``x``."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class MaskPredictor(nn.Module):
    """(R, width, M/2, M/2) -> mask logits (R, K, M, M), float32."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)
        _zero_biases(self)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits of the regions ``x``."""
        return self.logits(F.relu(self.deconv(x))).float()


def build_box_head(config: DetectorConfig, channels: int, size: int) -> nn.Module:
    """Hidden layers on a pooled region, (R, channels, size, size) -> (R, fc_width), initialised as detectron2's.

    Two linear ones, or four 3x3 convolutions that keep the channels and a linear one.
    """
    head: nn.Module
    if config.box_head == "4conv1fc":
        head = FastRCNNConvFCHead((channels, size, size), [channels] * 4, [config.fc_width], _norm_layer(config))
    else:
        head = TwoMLPHead(channels * size**2, config.fc_width)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
    _zero_biases(head)
    return head


def build_mask_head(config: DetectorConfig, channels: int) -> MaskRCNNHeads:
    """Four 3x3 convolutions on a pooled region."""
    return MaskRCNNHeads(channels, (config.mask_width,) * 4, dilation=1, norm_layer=_norm_layer(config))


def _norm_layer(config: DetectorConfig) -> type[nn.BatchNorm2d] | None:
    return nn.BatchNorm2d if config.head_norm == "batch" else None


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

    ``forward`` answers ``(detections, losses)`` as torchvision's does; masks stay probabilities on the boxes'
    grids, ``mask_probs`` (n, M, M).

    Args:
        config: sampling and selection.
        box_roi_pool: cuts the regions out.
        box_head: pooled regions -> (R, width).
        box_predictor: (R, width) -> class logits and box deltas.
        mask_branch: ``mask_roi_pool``, ``mask_head`` and ``mask_predictor``, or nothing.
    """

    def __init__(
        self,
        config: DetectorConfig,
        box_roi_pool: AlignedRoIPool,
        box_head: nn.Module,
        box_predictor: nn.Module,
        **mask_branch: nn.Module,
    ) -> None:
        super().__init__(
            box_roi_pool,
            box_head,
            box_predictor,
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
        detections = [
            self._best(*image) for image in zip(boxes.split(counts), scores.split(counts), image_shapes, strict=True)
        ]
        if self.has_mask():
            self._add_masks(features, detections, image_shapes)
        return detections

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

    def _add_masks(
        self,
        features: dict[str, Tensor],
        detections: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> None:
        boxes = [detection["boxes"] for detection in detections]
        labels = torch.cat([detection["labels"] for detection in detections])
        logits = self.mask_logits(features, boxes, image_shapes)
        probs = logits[torch.arange(len(labels), device=labels.device), labels - 1].sigmoid()
        for detection, part in zip(detections, probs.split([len(box) for box in boxes]), strict=True):
            detection["mask_probs"] = part

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


def _zero_biases(module: nn.Module) -> None:
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(value)


def _select(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    return [tensor[mask] for tensor, mask in zip(tensors, masks, strict=True)]
