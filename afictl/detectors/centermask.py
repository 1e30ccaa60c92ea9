"""CenterMask (Lee and Park, https://arxiv.org/abs/1911.06667): FCOS with masks guided by spatial attention.

Legend: R regions of a batch, K classes without background, M x M the mask grid (28 x 28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import box_area, box_iou

from afictl.detectors.fcos import FCOSHead, build_fcos_head
from afictl.detectors.head import Detections, FeatureMaps, HeadPart, ImageBatch, Losses, Target
from afictl.detectors.mask_scoring import MaskScorer, mask_ious, mask_score_loss, visible_fractions
from afictl.detectors.masks import mask_loss, mask_targets, select_class
from afictl.detectors.rcnn import mask_part
from afictl.detectors.region_layers import AlignedRoIPool, MaskPredictor, build_mask_head
from afictl.detectors.sampling import image_generators, random_subset
from afictl.presets.architecture import CenterMaskConfig

_POOLED_SIZE = 14
_NUM_LEVELS = 3
_MAX_PROPOSALS = 100
_MIN_IOU = 0.5
_OBJECT_FRACTION = 0.25


class RelativeRoIPool(AlignedRoIPool):
    """Pool each region from the level that fits its fraction of the image (the paper's equation 2).

    The coarsest level has regions of more than half the image, the next those of more than a quarter, and so on;
    the finest has all that are smaller.
    """

    def levels(self, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Index of each region's level, int64 (R,): ceil(last - log2(image area / region area))."""
        last = len(self.scales) - 1
        fractions = [box_area(box) / (height * width) for box, (height, width) in zip(boxes, image_shapes, strict=True)]
        return (last + torch.cat(fractions).log2()).ceil().clamp(0, last).long()


class SpatialAttention(nn.Module):
    """Multiply each position by a weight in 0..1, computed from mean and maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, H, W) -> the same shape."""
        summary = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * self.conv(summary).sigmoid()


class CenterMaskHead(nn.Module):
    """FCOS, and on the regions that it detects a mask branch and the scoring of its masks.

    Args:
        fcos: detects the regions.
        channels: of the pyramid.
        strides: stride in pixels of each level that regions are pooled from.
        roi_batch: regions sampled per image, of which up to a quarter are objects and train masks.
        mask_width: channels of the convolutions of the mask and scoring heads.
        fc_width: hidden layers of the scoring head.
        head_norm: after the convolutions of the mask head.
    """

    class_layers: tuple[str, ...] = (
        *(f"fcos.{prefix}" for prefix in FCOSHead.class_layers),
        "mask_predictor.logits.",
        "mask_scorer.iou.",
    )

    def __init__(
        self,
        fcos: FCOSHead,
        channels: int,
        strides: Mapping[str, int],
        *,
        roi_batch: int,
        mask_width: int,
        fc_width: int,
        head_norm: Literal["none", "batch"],
    ) -> None:
        super().__init__()
        self.fcos = fcos
        self.pool = RelativeRoIPool(strides, _POOLED_SIZE)
        self.mask_head = nn.Sequential(build_mask_head(channels, mask_width, norm=head_norm), SpatialAttention())
        self.mask_predictor = MaskPredictor(mask_width, fcos.num_classes)
        self.mask_scorer = MaskScorer(channels, _POOLED_SIZE, mask_width, fc_width, fcos.num_classes)
        self.regions_train = int(roi_batch * _OBJECT_FRACTION)
        self.regions_test = fcos.max_detections

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of FCOS, and of masks and their scores on regions that it detects."""
        outputs = self.fcos.outputs(features)
        with torch.no_grad():
            proposals = self.fcos.select_detections(outputs, batch.sizes, limit=_MAX_PROPOSALS)
            generators = image_generators(len(targets), batch.tensor.device)
            regions = [self._regions(*image) for image in zip(proposals, targets, generators, strict=True)]
        losses = self.fcos.compute_losses(outputs, targets)
        return {**losses, **self._mask_losses(features, regions, targets, batch.sizes)}

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections of FCOS."""
        return self.fcos.detect(batch, features)

    def _regions(self, proposals: Detections, target: Target, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An image's boxes for training masks, (r, 4), and the object of each, (r,).

        They are the objects of a sample like that of a box head, of which up to a quarter are objects.
        """
        objects = target["boxes"].to(proposals["boxes"])
        if not len(objects):
            return objects, target["labels"]
        boxes = torch.cat((proposals["boxes"], objects))
        overlap, matches = box_iou(objects, boxes).max(dim=0)
        indices = torch.where(overlap >= _MIN_IOU)[0]
        sample = random_subset(indices, self.regions_train, generator)
        return boxes[sample], matches[sample]

    def _mask_losses(
        self,
        features: FeatureMaps,
        regions: list[tuple[Tensor, Tensor]],
        targets: Sequence[Target],
        sizes: list[tuple[int, int]],
    ) -> Losses:
        labels = torch.cat([target["labels"][matches] for (_, matches), target in zip(regions, targets, strict=True)])
        pooled = self.pool(features, [boxes for boxes, _ in regions], sizes)
        logits = self.mask_predictor(self.mask_head(pooled))
        pairs = [(target["masks"], *region) for region, target in zip(regions, targets, strict=True)]
        masks = torch.cat([mask_targets(*pair, logits.shape[-1]) for pair in pairs])
        fractions = torch.cat([visible_fractions(*pair) for pair in pairs])
        class_logits = select_class(logits, labels)
        scores = select_class(self.mask_scorer(pooled, class_logits.sigmoid()), labels)
        return {
            "loss_mask": mask_loss(logits, labels, masks),
            "loss_mask_iou": mask_score_loss(scores, mask_ious(class_logits > 0, masks, fractions)),
        }

    def segment(self, batch: ImageBatch, features: FeatureMaps, detections: Sequence[Detections]) -> list[Detections]:
        """The detections with ``mask_probs`` (n, M, M) and ``mask_scores`` (n,).

        The score of a mask is the score of its box times the predicted IoU of the mask.
        """
        boxes = [detection["boxes"] for detection in detections]
        labels = torch.cat([detection["labels"] for detection in detections])
        pooled = self.pool(features, boxes, batch.sizes)
        probs = select_class(self.mask_predictor(self.mask_head(pooled)), labels).sigmoid()
        ious = select_class(self.mask_scorer(pooled, probs), labels).clamp(0, 1)
        counts = [box.shape[0] for box in boxes]
        return [
            {**detection, "mask_probs": prob, "mask_scores": detection["scores"] * iou}
            for detection, prob, iou in zip(detections, probs.split(counts), ious.split(counts), strict=True)
        ]

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The logits of FCOS, which detects the boxes."""
        return self.fcos.box_class_logits(batch, features, box, label)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """The parts of FCOS, then masks and their scores for the largest number of detections."""
        first = next(iter(features.values()))
        shape = (self.regions_test, first.shape[1], _POOLED_SIZE, _POOLED_SIZE)
        probs = (self.regions_test, 2 * _POOLED_SIZE, 2 * _POOLED_SIZE)
        mask_head = nn.Sequential(self.mask_head, self.mask_predictor)
        return [
            *self.fcos.parts(features),
            mask_part(mask_head, mask_head, first, self.regions_test, (_POOLED_SIZE, _POOLED_SIZE)),
            HeadPart(
                "mask scoring",
                f"{self.regions_test} regions",
                lambda: self.mask_scorer(first.new_zeros(shape), first.new_zeros(probs)),
                (self.mask_scorer,),
            ),
        ]


def build_centermask_head(
    config: CenterMaskConfig, channels: int, strides: Mapping[str, int], num_classes: int
) -> CenterMaskHead:
    """Head for maps of ``channels`` channels at ``strides``; masks are pooled from the three finest levels."""
    fcos = build_fcos_head(config, channels, strides, num_classes)
    return CenterMaskHead(
        fcos,
        channels,
        dict(islice(strides.items(), _NUM_LEVELS)),
        roi_batch=config.roi_batch,
        mask_width=config.mask_width,
        fc_width=config.fc_width,
        head_norm=config.head_norm,
    )
