"""Anchors fitted to the boxes of a dataset, by k-means with the overlap as similarity.

Redmon and Farhadi, "YOLO9000" (2017), section 2, choose the shapes of anchors by k-means with the distance 1 - IoU.
Here a cluster is not free: an anchor's size belongs to its level, and its ratio to all levels. The IoU also counts the
distance of a box to the nearest position of the level: a small object between two positions of a coarse level has no
anchor there, whatever the shape.

Legend: N boxes, L levels, A anchors per position (S sizes of an octave times R ratios). Lengths are pixels of the
resized image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from afictl.detectors.anchors import FixedStrideAnchors

MIN_IOU = 0.5
"""Least IoU of a box and an anchor that fits it."""
_MAX_BOXES = 5_000
"""Of more boxes an even sample is taken, so that fitting takes seconds."""
_MAX_ITERATIONS = 25
_MIN_GAIN = 0.01
"""Of ``AnchorFit.score``, below which the given anchors are kept."""


@dataclass(frozen=True)
class AnchorFit:
    """Anchors and how they fit the boxes."""

    sizes: tuple[float, ...]
    """Of each level, as ``detector.anchor_sizes``."""
    ratios: tuple[float, ...]
    """Height divided by width, as ``detector.anchor_ratios``."""
    mean_iou: float
    """Mean over the boxes of the IoU with the best anchor."""
    share: float
    """Fraction of the boxes whose best anchor has an IoU of at least ``MIN_IOU``."""
    level_shares: tuple[float, ...]
    """Fraction of the boxes whose best anchor is on each level."""

    @property
    def score(self) -> float:
        """Mean of ``mean_iou`` and ``share``, which proposals maximise: neither many poor nor few good overlaps."""
        return (self.mean_iou + self.share) / 2


class AnchorFitting:
    """Measures and fits anchors on a pyramid, for given boxes. Nothing is random.

    Args:
        boxes: (N,4) xyxy, none without area; at least one.
        strides: of each level, finest first.
        per_octave: sizes per level, as ``detector.anchors_per_octave``.
    """

    def __init__(self, boxes: np.ndarray, strides: Sequence[int], per_octave: int) -> None:
        sample = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), _MAX_BOXES)).astype(np.int64)].astype(np.float64)
        self.strides, self.per_octave = tuple(strides), per_octave
        wh, centres, grid = sample[:, 2:] - sample[:, :2], (sample[:, :2] + sample[:, 2:]) / 2, np.array(self.strides)
        self._log_size, self._log_ratio = np.log(wh).mean(axis=1), np.log(wh[:, 1] / wh[:, 0])
        self._sides, positions = wh.T.astype(np.float32)[..., None, None], centres.T[..., None] / grid  # (2,N,L)
        self._offsets = (np.abs(positions - positions.round()) * grid).astype(np.float32)[..., None]  # (2,N,L,1)

    @property
    def num_boxes(self) -> int:
        """Number of boxes, of a sample where there are many."""
        return len(self._log_size)

    def measure(self, sizes: Sequence[float], ratios: Sequence[float]) -> AnchorFit:
        """The fit of given anchors."""
        return self._summarize(sizes, ratios, *self._best(sizes, ratios))

    def propose(self, sizes: Sequence[float], ratios: Sequence[float], *, keep_ratios: bool = False) -> AnchorFit:
        """Anchors that fit the boxes at least as well as the given ones: as many sizes and ratios, rounded.

        Clusters start at the given anchors, at quantiles, and at even steps of the logarithm; the best result is taken,
        and the given anchors where nothing is clearly better.

        Args:
            sizes: those of today, one for each level.
            ratios: those of today.
            keep_ratios: fit the sizes alone.
        """
        now = self.measure(sizes, ratios)
        low, high = np.quantile(self._log_size, (0.05, 0.95))
        shape = list(ratios) if keep_ratios else _quantiles(self._log_ratio, len(ratios))
        starts = [
            (list(sizes), list(ratios)),
            (_quantiles(self._log_size, len(sizes)), shape),
            (np.exp(np.linspace(low, high, len(sizes))).tolist(), shape),
        ]
        fits = [self._round(self._fit(*start, keep_ratios), keep_ratios) for start in starts]
        best = max(fits, key=lambda fit: fit.score)
        return best if best.score >= now.score + _MIN_GAIN and best.share >= now.share else now

    def _round(self, fit: AnchorFit, keep_ratios: bool) -> AnchorFit:
        sizes = [round(size, 1) if size < 10 else float(round(size)) for size in fit.sizes]
        return self.measure(sizes, fit.ratios if keep_ratios else [round(ratio, 2) for ratio in fit.ratios])

    def _fit(self, sizes: Sequence[float], ratios: Sequence[float], keep_ratios: bool) -> AnchorFit:
        """Lloyd's iterations; the best of them, as the mean of a cluster need not raise the IoU."""
        sizes = np.maximum(sizes, self.strides).tolist()
        fits: list[AnchorFit] = []
        for _ in range(_MAX_ITERATIONS):
            index, ious = self._best(sizes, ratios)
            fits.append(self._summarize(sizes, ratios, index, ious))
            level, octave, ratio = np.unravel_index(index, (len(sizes), self.per_octave, len(ratios)))
            log_size = self._log_size - octave * np.log(2) / self.per_octave
            # An anchor smaller than the stride would leave gaps between neighbours.
            new_sizes = np.sort(np.maximum(_cluster_means(log_size, level, sizes), self.strides)).tolist()
            new_ratios = list(ratios) if keep_ratios else sorted(_cluster_means(self._log_ratio, ratio, ratios))
            if np.allclose([*new_sizes, *new_ratios], [*sizes, *ratios], rtol=1e-3):
                break
            sizes, ratios = new_sizes, new_ratios
        return max(fits, key=lambda fit: fit.score)

    def _best(self, sizes: Sequence[float], ratios: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Index (N,) of the best anchor, L * A in the order of levels, octave and ratios, and its IoU (N,)."""
        cells = FixedStrideAnchors(sizes, ratios, self.strides, self.per_octave).cell_anchors
        anchors = np.stack([(cell[:, 2:] - cell[:, :2]).T.numpy() for cell in cells], axis=1)[:, None]  # (2,1,L,A)
        common = np.minimum((self._sides + anchors) / 2 - self._offsets, np.minimum(self._sides, anchors))
        overlap = common[0].clip(0) * common[1].clip(0)
        areas = self._sides[0] * self._sides[1] + anchors[0] * anchors[1]
        ious = (overlap / (areas - overlap)).reshape(self.num_boxes, -1)
        index = ious.argmax(axis=1)
        return index, ious[np.arange(len(index)), index]

    def _summarize(
        self, sizes: Sequence[float], ratios: Sequence[float], index: np.ndarray, ious: np.ndarray
    ) -> AnchorFit:
        level = index // (self.per_octave * len(ratios))
        shares = np.bincount(level, minlength=len(self.strides)) / len(index)
        fitting = float((ious >= MIN_IOU).mean())
        return AnchorFit(tuple(sizes), tuple(ratios), float(ious.mean()), fitting, tuple(shares.tolist()))


@dataclass(frozen=True)
class RangeFit:
    """Size ranges of FCOS and the objects of each level."""

    ranges: tuple[float, ...]
    """As ``detector.size_ranges``."""
    level_shares: tuple[float, ...]
    """Fraction of the boxes that each level predicts from the points at their centre."""


def measure_ranges(boxes: np.ndarray, ranges: Sequence[float]) -> RangeFit:
    """The share of each level of the boxes (N,4), by half their longer side: the distance from centre to side."""
    level = np.searchsorted(ranges, _half_sides(boxes), side="left")
    return RangeFit(tuple(ranges), tuple((np.bincount(level, minlength=len(ranges) + 1) / len(boxes)).tolist()))


def propose_ranges(boxes: np.ndarray, strides: Sequence[int]) -> RangeFit:
    """Size ranges that give each level as equal a share of the boxes (N,4) as its stride allows.

    A level predicts no object whose longer side is less than twice its stride, among whose points few are inside.
    """
    quantiles = np.quantile(_half_sides(boxes), np.arange(1, len(strides)) / len(strides))
    return measure_ranges(boxes, np.maximum(np.ceil(quantiles), strides[1:]).tolist())


def _half_sides(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2


def _quantiles(logarithms: np.ndarray, count: int) -> list[float]:
    """The exponentials of ``count`` quantiles, the middles of equal parts."""
    values: list[float] = np.exp(np.quantile(logarithms, (np.arange(count) + 0.5) / count)).tolist()
    return values


def _cluster_means(logarithms: np.ndarray, cluster: np.ndarray, before: Sequence[float]) -> list[float]:
    """The geometric mean of each cluster; one without members stays as ``before``."""
    counts = np.bincount(cluster, minlength=len(before))
    sums = np.bincount(cluster, weights=logarithms, minlength=len(before))
    return np.where(counts > 0, np.exp(sums / np.maximum(counts, 1)), before).tolist()
