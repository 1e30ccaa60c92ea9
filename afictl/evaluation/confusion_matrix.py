"""Confusion matrix of the classes of objects and matched detections."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from afictl.data import Dataset
from afictl.evaluation.ground_truth import ground_truth_of
from afictl.evaluation.predictions import read_predictions

_MIN_IOU = 0.5
_MAX_DETECTIONS = 100
"""Detections per image, as in the COCO metrics."""
_UNMATCHED, _IGNORED = -1, -2


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of objects and detections by class."""

    classes: tuple[str, ...]
    """K names in the order of the category ids."""
    counts: np.ndarray
    """(K+1, K+1) int64, a row for each class of an object and a column for each class of a detection. The last row
    counts detections without an object, the last column objects without a detection."""
    score: float
    """Minimum score of a counted detection."""


def compute_confusion(
    predictions: Path, dataset: Dataset, *, image_ids: Collection[int] | None = None, score: float = 0.3
) -> ConfusionMatrix:
    """Match detections to objects of all classes by box IoU of at least 0.5, and count the pairs of classes.

    In descending order of score, each detection is matched to the unmatched object of largest IoU; ties are resolved in
    favour of the same class. Crowds, and detections on a crowd of their class, are not counted.

    Args:
        predictions: file of COCO results.
        dataset: ground truth.
        image_ids: images to count; None: all.
        score: minimum score of a counted detection.

    Raises:
        UserError: as ``score_predictions``.
    """
    truth = ground_truth_of(dataset, image_ids)
    loaded = read_predictions(predictions, truth, restricted=image_ids is not None)
    background = len(truth.classes)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for image in range(len(truth.image_ids)):
        objects, rows = truth.objects_of(image, image + 1), loaded.results_of(image, image + 1)
        best = rows.start + np.argsort(-loaded.scores[rows], kind="stable")[:_MAX_DETECTIONS]
        best = best[loaded.scores[best] >= score]
        categories, labels, crowd = truth.categories[objects], loaded.categories[best], truth.crowd[objects]
        matches = _match(_overlaps(loaded.boxes[best], truth.boxes[objects], crowd), labels, categories, crowd)
        matched = matches >= 0
        np.add.at(counts, (categories[matches[matched]], labels[matched]), 1)
        np.add.at(counts, (background, labels[matches == _UNMATCHED]), 1)
        missed = np.setdiff1d(np.flatnonzero(~crowd), matches)
        np.add.at(counts, (categories[missed], background), 1)
    return ConfusionMatrix(truth.classes, counts, score)


def _overlaps(detections: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (n,m) of boxes xywh; for a crowd the fraction of the detection inside it."""
    if not len(detections) or not len(objects):
        return np.zeros((len(detections), len(objects)))
    return np.asarray(coco_mask.iou(detections, objects, crowd.astype(np.uint8)))


def _match(overlaps: np.ndarray, labels: np.ndarray, categories: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Index (n,) of the object of each detection, ``_UNMATCHED``, or ``_IGNORED`` for a detection on a crowd."""
    matches = np.full(len(labels), _UNMATCHED)
    free = ~crowd
    for k, label in enumerate(labels.tolist()):
        candidates = free & (overlaps[k] >= _MIN_IOU)
        if candidates.any():
            # the bonus for the same class only resolves ties
            matches[k] = np.argmax(np.where(candidates, overlaps[k] + 1e-9 * (categories == label), -1.0))
            free[matches[k]] = False
        elif (crowd & (categories == label) & (overlaps[k] >= _MIN_IOU)).any():
            matches[k] = _IGNORED
    return matches
