"""RetinaNet (Lin et al., https://arxiv.org/abs/1708.02002) as detectron2 builds and trains it.

Legend: N images, K classes without background, A anchors per position, P anchors of all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from afictl.detectors.anchors import FixedStrideAnchors
from afictl.detectors.class_logits import anchor_logits, matching_logits
from afictl.detectors.dense import (
    Candidates,
    conv_tower,
    flatten_levels,
    flatten_map,
    focal_loss,
    initialize_head,
    suppress,
    top_scores,
)
from afictl.detectors.head import Detections, FeatureMaps, HeadPart, ImageBatch, Losses, Target
from afictl.distributed import world_size
from afictl.presets.architecture import RetinaNetConfig
from afictl.total_batch import sum_over_total_batch

_MOMENTUM = 0.9
"""Of the running mean of the number of positive anchors, by which losses are divided."""


class AnchorOutputs(NamedTuple):
    """Outputs at every anchor, a float32 map for each level."""

    logits: list[Tensor]
    """(N, A * K, h, w) class logits."""
    deltas: list[Tensor]
    """(N, A * 4, h, w) boxes relative to their anchors."""


def build_retinanet_head(
    config: RetinaNetConfig, channels: int, strides: Mapping[str, int], num_classes: int
) -> RetinaNetHead:
    """Head for maps of ``channels`` channels at ``strides``, level name to pixels."""
    return RetinaNetHead(
        channels,
        strides,
        num_classes,
        anchor_sizes=config.anchor_sizes,
        anchor_ratios=config.anchor_ratios,
        anchors_per_octave=config.anchors_per_octave,
        candidates=config.candidates,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        max_detections=config.max_detections,
    )


class RetinaNetHead(nn.Module):
    """Classes and boxes of every anchor, as a ``Head``.

    Args:
        channels: of every level.
        strides: stride in pixels of each level that is read.
        num_classes: K.
        anchor_sizes, anchor_ratios, anchors_per_octave: see ``FixedStrideAnchors``.
        candidates: largest number of anchors per level before non-maximum suppression.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU from which the weaker of two boxes of a class is dropped.
        max_detections: largest number per image.
    """

    class_layers: tuple[str, ...] = ("class_logits.",)
    normalizer: Tensor

    def __init__(
        self,
        channels: int,
        strides: Mapping[str, int],
        num_classes: int,
        *,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
        anchors_per_octave: int,
        candidates: int,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.levels = num_classes, tuple(strides)
        self.candidates, self.score_threshold = candidates, score_threshold
        self.nms_threshold, self.max_detections = nms_threshold, max_detections
        self.anchors = FixedStrideAnchors(anchor_sizes, anchor_ratios, list(strides.values()), anchors_per_octave)
        per_position = self.anchors.num_anchors_per_location()[0]
        self.class_tower = conv_tower(channels)
        self.box_tower = conv_tower(channels)
        self.class_logits = nn.Conv2d(channels, per_position * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(channels, per_position * 4, 3, padding=1)
        initialize_head(self.children(), self.class_logits)
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        # Saved with the weights, so that a resumed run divides by the same mean.
        self.register_buffer("normalizer", torch.tensor(100.0))

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of the outputs for ``features``, see ``compute_losses``."""
        return self.compute_losses(self.outputs(features), targets)

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections of the outputs for ``features``, see ``select_detections``."""
        return self.select_detections(self.outputs(features), batch.sizes)

    def outputs(self, features: FeatureMaps) -> AnchorOutputs:
        """Class logits and box deltas of all levels."""
        return AnchorOutputs(self._classes(features), self._boxes(features))

    def _classes(self, features: FeatureMaps) -> list[Tensor]:
        return [self.class_logits(self.class_tower(features[level])).float() for level in self.levels]

    def _boxes(self, features: FeatureMaps) -> list[Tensor]:
        return [self.box_deltas(self.box_tower(features[level])).float() for level in self.levels]

    def compute_losses(self, outputs: AnchorOutputs, targets: Sequence[Target]) -> Losses:
        """Focal loss of all anchors but those between the thresholds, L1 of the positive ones.

        Both are sums, divided by a running mean of the number of positive anchors in the total batch.
        """
        logits = flatten_levels(outputs.logits, self.num_classes)
        deltas = flatten_levels(outputs.deltas, 4)
        anchors = torch.cat(self.anchors.levels(outputs.logits))
        matches = torch.stack([self._match(anchors, target["boxes"]) for target in targets])
        positive = matches >= 0
        labels = torch.stack([_labels(*pair) for pair in zip(matches, targets, strict=True)])
        divisor = self._update_normalizer(positive.sum()) / world_size()  # as DDP averages over ranks
        target_deltas = torch.cat([self._deltas(anchors, *pair) for pair in zip(matches, targets, strict=True)])
        box_loss = F.l1_loss(deltas[positive], target_deltas, reduction="sum")
        return {"loss_classifier": focal_loss(logits, labels) / divisor, "loss_box_reg": box_loss / divisor}

    def _match(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """The object of each anchor, (P,) int64; -1 is background, -2 neither."""
        if len(boxes) == 0:
            return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
        return self.matcher(box_iou(boxes, anchors))

    def _deltas(self, anchors: Tensor, matches: Tensor, target: Target) -> Tensor:
        """Target deltas (n, 4) of an image's positive anchors."""
        positive = matches >= 0
        return self.box_coder.encode_single(target["boxes"][matches[positive]].float(), anchors[positive])

    @torch.no_grad()
    def _update_normalizer(self, positives: Tensor) -> Tensor:
        count = sum_over_total_batch(positives.float()).clamp(min=1)
        mean = _MOMENTUM * self.normalizer + (1 - _MOMENTUM) * count
        self.normalizer.copy_(mean)
        return mean

    def select_detections(self, outputs: AnchorOutputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """For each image of height and width ``sizes`` its boxes, labels and scores, best first."""
        anchors = self.anchors.levels(outputs.logits)
        scores = [flatten_map(value, self.num_classes).sigmoid() for value in outputs.logits]
        deltas = [flatten_map(value, 4) for value in outputs.deltas]
        return [
            suppress(
                [self._candidates(a, s[i], d[i]) for a, s, d in zip(anchors, scores, deltas, strict=True)],
                size,
                self.nms_threshold,
                self.max_detections,
            )
            for i, size in enumerate(sizes)
        ]

    def _candidates(self, anchors: Tensor, scores: Tensor, deltas: Tensor) -> Candidates:
        """Candidates of one image and level, from anchors (P, 4), scores (P, K) and deltas (P, 4)."""
        row, labels, scores = top_scores(scores, scores > self.score_threshold, self.candidates)
        return Candidates(self.box_coder.decode_single(deltas[row], anchors[row]), labels, scores)

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The logits of class ``label`` of the anchors that overlap ``box`` (4,) by an IoU of at least 0.5."""
        logits = self._classes(features)
        levels = {}
        for level, value, anchors in zip(self.levels, logits, self.anchors.levels(logits), strict=True):
            levels[level] = anchor_logits(flatten_map(value, self.num_classes)[0, :, label - 1], anchors, box)
        return matching_logits(levels)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """Class and box branch, each on all of ``features``."""
        classes, boxes = (self.class_tower, self.class_logits), (self.box_tower, self.box_deltas)
        return [
            HeadPart("class branch", "all levels", lambda: self._classes(features), classes),
            HeadPart("box branch", "all levels", lambda: self._boxes(features), boxes),
        ]


def _labels(matches: Tensor, target: Target) -> Tensor:
    """Labels (P,) of an image's anchors: 1..K, 0 for background, -1 for no loss."""
    labels = matches + 1
    positive = matches >= 0
    labels[positive] = target["labels"][matches[positive]]
    return labels.where(positive, labels.clamp(max=0))
