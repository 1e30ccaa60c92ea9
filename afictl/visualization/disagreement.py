"""Disagreement of methods on an image: detections of one method that another misses.

A detection is *drawn* if its score reaches the threshold. Its *partner* in another method is a detection of the same
class at an IoU of at least 0.5, with a score of at least half the threshold: a score just below the threshold
is not a relevant difference. The disagreement of two methods is the number of drawn detections of either without a
partner in the other; that of several methods is the mean over all pairs. It is 0 if all methods draw the same objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from afictl.evaluation.prediction_writer import CocoResult

_MIN_IOU = 0.5
_PARTNER_FRACTION = 0.5
"""Minimum score of a partner as a fraction of the threshold."""


class DetectionArrays(NamedTuple):
    """Detections of one method in one image."""

    boxes: np.ndarray
    """(n, 4) xyxy, in the same pixels for all methods."""
    labels: np.ndarray
    """(n,), with the same numbering for all methods."""
    scores: np.ndarray
    """(n,)"""


def rank_by_disagreement(
    predictions: Mapping[str, Iterable[CocoResult]], threshold: float = 0.5
) -> list[tuple[int, float]]:
    """Rank the images on which methods disagree, largest disagreement first.

    Args:
        predictions: COCO results by method; those below half the threshold are not stored.
        threshold: minimum score of a drawn detection.

    Returns:
        Pairs of image id and disagreement above 0; images of equal disagreement are ordered by id.
    """
    min_score = threshold * _PARTNER_FRACTION
    indices: dict[int, int] = {}
    table = [
        (indices.setdefault(row["image_id"], len(indices)), method, row["category_id"], row["score"], *row["bbox"])
        for method, rows in enumerate(predictions.values())
        for row in rows
        if row["score"] >= min_score
    ]
    if not table:
        return []
    images = _split_by_image(np.array(table, dtype=np.float64), len(predictions))
    scores = {image_id: disagreement_score(next(images), threshold) for image_id in indices}
    order = sorted((image_id for image_id, score in scores.items() if score), key=lambda i: (-scores[i], i))
    return [(image_id, scores[image_id]) for image_id in order]


def disagreement_score(methods: Sequence[DetectionArrays], threshold: float) -> float:
    """Mean number of drawn detections without a partner over all pairs of ``methods``, for one image.

    Raises:
        ValueError: fewer than two methods.
    """
    if len(methods) < 2:
        raise ValueError("the disagreement needs two or more methods")
    missing = sum(int(counts.sum()) for counts in count_missing(methods, threshold))
    return 2 * missing / (len(methods) * (len(methods) - 1))


def count_missing(
    methods: Sequence[DetectionArrays], threshold: float, method_labels: Sequence[Sequence[int]] | None = None
) -> list[npt.NDArray[np.int64]]:
    """For each method, (n,): number of other methods without a partner of each detection; 0 if it is not drawn.

    Args:
        methods: detections of each method in one image.
        threshold: minimum score of a drawn detection.
        method_labels: labels that each method can predict; a method without the class of a detection is not counted.
    """
    boxes, labels, scores = (np.concatenate(field) for field in zip(*methods, strict=True))
    method_index = np.repeat(np.arange(len(methods)), [len(detections.scores) for detections in methods])
    candidates = scores >= threshold * _PARTNER_FRACTION
    above_threshold = scores >= threshold
    counts = np.zeros(len(scores), dtype=np.int64)
    for label in np.unique(labels[above_threshold]):
        same_label = labels == label
        partners = _pairwise_iou(boxes[above_threshold & same_label], boxes[candidates & same_label]) >= _MIN_IOU
        columns = method_index[candidates & same_label]
        has_partner = [partners[:, columns == method].any(axis=1) for method in range(len(methods))]
        num_methods = sum(label in class_labels for class_labels in method_labels) if method_labels else len(methods)
        counts[above_threshold & same_label] = num_methods - np.sum(
            has_partner, axis=0
        )  # a detection is its own partner
    return np.split(counts, np.cumsum([len(detections.scores) for detections in methods])[:-1])


def _split_by_image(table: npt.NDArray[np.float64], num_methods: int) -> Iterator[list[DetectionArrays]]:
    """Yield the detections of all methods for each image, from rows (image, method, class, score, x, y, w, h)."""
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    _, starts = np.unique(table[:, 0], return_index=True)
    for rows in np.split(table, starts[1:]):
        boxes = np.concatenate((rows[:, 4:6], rows[:, 4:6] + rows[:, 6:8]), axis=1)
        ends = np.searchsorted(rows[:, 1], np.arange(1, num_methods))
        fields = (np.split(field, ends) for field in (boxes, rows[:, 2], rows[:, 3]))
        yield [DetectionArrays(*arrays) for arrays in zip(*fields, strict=True)]


def _pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes xyxy: (n, 4) and (m, 4) -> (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (high - low).clip(min=0).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
