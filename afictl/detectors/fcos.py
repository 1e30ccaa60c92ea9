"""FCOS (Tian et al., https://arxiv.org/abs/1904.01355, improved in https://arxiv.org/abs/2006.09214).

The layers are detectron2's; targets and losses are those of the authors' own code, which published results use.
Legend: N images, K classes without background, P points of all levels, G objects of an image. Distances are
(left, top, right, bottom) from a point to the sides of its box, in units of the level's stride.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.detectors.class_logits import matching_logits, point_logits
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
from afictl.detectors.points import Points, assign, centerness, giou_loss, sides_to_boxes
from afictl.presets.architecture import PointConfig
from afictl.total_batch import loss_divisor


class PointOutputs(NamedTuple):
    """Outputs at every point, a float32 map for each level."""

    logits: list[Tensor]
    """(N, K, h, w) class logits."""
    distances: list[Tensor]
    """(N, 4, h, w), not negative, in units of the level's stride."""
    centerness: list[Tensor]
    """(N, 1, h, w) logits."""


def build_fcos_head(config: PointConfig, channels: int, strides: Mapping[str, int], num_classes: int) -> FCOSHead:
    """Head for maps of ``channels`` channels at ``strides``, level name to pixels."""
    return FCOSHead(
        channels,
        strides,
        num_classes,
        size_ranges=config.size_ranges,
        level_scales=config.level_scales,
        candidates=config.candidates,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        max_detections=config.max_detections,
    )


class FCOSHead(nn.Module):
    """Class, box and centerness of every point, as a ``Head``.

    Args:
        channels: of every level.
        strides: stride in pixels of each level that is read.
        num_classes: K.
        size_ranges: of each level but the last, the largest distance in pixels from a point to a side of its box.
        level_scales: whether each level has a learned factor on its distances.
        candidates: largest number of points per level before non-maximum suppression.
        score_threshold: lowest class score of a detection.
        nms_threshold: IoU from which the weaker of two boxes of a class is dropped.
        max_detections: largest number per image.
    """

    class_layers: tuple[str, ...] = ("class_logits.",)

    def __init__(
        self,
        channels: int,
        strides: Mapping[str, int],
        num_classes: int,
        *,
        size_ranges: Sequence[float],
        level_scales: bool,
        candidates: int,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.strides, self.size_ranges = num_classes, dict(strides), tuple(size_ranges)
        self.candidates, self.score_threshold = candidates, score_threshold
        self.nms_threshold, self.max_detections = nms_threshold, max_detections
        self.class_tower = conv_tower(channels, group_norm=True)
        self.box_tower = conv_tower(channels, group_norm=True)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        initialize_head(self.children(), self.class_logits)
        self.scales = nn.ParameterDict({level: torch.ones(1) for level in strides if level_scales})

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of the outputs for ``features``, see ``compute_losses``."""
        return self.compute_losses(self.outputs(features), targets)

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections of the outputs for ``features``, see ``select_detections``."""
        return self.select_detections(self.outputs(features), batch.sizes)

    def outputs(self, features: FeatureMaps) -> PointOutputs:
        """Class logits, distances and centerness logits of all levels."""
        distances, centers = self._boxes(features)
        return PointOutputs(self._classes(features), distances, centers)

    def _classes(self, features: FeatureMaps) -> list[Tensor]:
        return [self.class_logits(self.class_tower(features[level])).float() for level in self.strides]

    def _boxes(self, features: FeatureMaps) -> tuple[list[Tensor], list[Tensor]]:
        distances, centers = [], []
        for level in self.strides:
            hidden = self.box_tower(features[level])
            raw = self.box_distances(hidden).float()
            distances.append(F.relu(raw * self.scales[level] if self.scales else raw))
            centers.append(self.centerness(hidden).float())
        return distances, centers

    def points(self, maps: Sequence[Tensor]) -> list[Points]:
        """The points of each level's map (N, C, h, w)."""
        bounds = (0.0, *self.size_ranges, float("inf"))
        levels = zip(maps, self.strides.values(), bounds[:-1], bounds[1:], strict=True)
        return [Points.from_map(*level) for level in levels]

    def compute_losses(self, outputs: PointOutputs, targets: Sequence[Target]) -> Losses:
        """Focal loss of all points; GIoU, weighted by centerness, and centerness of those on objects.

        Divided by the number of points on objects of all ranks, the box loss by the sum of their centerness.
        """
        points = Points.join(self.points(outputs.logits))
        logits, distances, centers = (
            flatten_levels(maps, width) for maps, width in zip(outputs, (self.num_classes, 4, 1), strict=True)
        )
        assignments = [assign(points, target) for target in targets]
        labels, sides = (torch.stack(values) for values in zip(*assignments, strict=True))
        positive = labels > 0
        sides = sides[positive]
        weight = centerness(sides)
        count = loss_divisor(positive.sum(), logits)
        total = loss_divisor(weight.sum(), logits, minimum=1e-6)
        center_loss = F.binary_cross_entropy_with_logits(centers[..., 0][positive], weight, reduction="sum")
        return {
            "loss_classifier": focal_loss(logits, labels) / count,
            "loss_box_reg": (giou_loss(distances[positive], sides) * weight).sum() / total,
            "loss_centerness": center_loss / count,
        }

    def select_detections(
        self, outputs: PointOutputs, sizes: Sequence[tuple[int, int]], limit: int | None = None
    ) -> list[Detections]:
        """For each image of height and width ``sizes`` its boxes, labels and scores, best first.

        The score is the geometric mean of class score and centerness. ``limit`` replaces ``max_detections``.
        """
        points = self.points(outputs.logits)
        scores, distances, centers = (
            [flatten_map(value, width) for value in maps]
            for maps, width in zip(outputs, (self.num_classes, 4, 1), strict=True)
        )
        levels = list(zip(points, scores, distances, centers, strict=True))
        return [
            suppress(
                [self._candidates(p, s[i], d[i], c[i]) for p, s, d, c in levels],
                size,
                self.nms_threshold,
                limit or self.max_detections,
            )
            for i, size in enumerate(sizes)
        ]

    def _candidates(self, points: Points, logits: Tensor, distances: Tensor, centers: Tensor) -> Candidates:
        """Candidates of one image and level, from class logits (P, K), distances (P, 4) and centerness (P, 1)."""
        scores = logits.sigmoid()
        row, labels, product = top_scores(scores * centers.sigmoid(), scores > self.score_threshold, self.candidates)
        sides = distances[row] * points.strides[row, None]
        return Candidates(sides_to_boxes(points.xy[row], sides), labels, product.sqrt())

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The logits of class ``label`` at the points near the centre of ``box`` (4,), on all levels."""
        logits, target = self._classes(features), {"boxes": box[None], "labels": box.new_ones(1).long()}
        levels = {}
        for level, value, points in zip(self.strides, logits, self.points(logits), strict=True):
            every_size = points._replace(low=torch.zeros_like(points.low), high=points.high + torch.inf)
            matches = assign(every_size, target)[0] > 0
            column = flatten_map(value, self.num_classes)[0, :, label - 1]
            levels[level] = point_logits(column, points.xy, matches, box)
        return matching_logits(levels)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """Class and box branch, each on all of ``features``."""
        classes = (self.class_tower, self.class_logits)
        boxes = (self.box_tower, self.box_distances, self.centerness, self.scales)
        return [
            HeadPart("class branch", "all levels", lambda: self._classes(features), classes),
            HeadPart("box branch", "all levels", lambda: self._boxes(features), boxes),
        ]
