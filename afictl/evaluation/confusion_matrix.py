"""Which class a detector takes which object for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from afictl.data import Dataset
from afictl.evaluation.ground_truth import ground_truth_of
from afictl.evaluation.predictions import read_predictions

_IOU = 0.5
_MOST = 100  # detections of an image, as the metric takes


@dataclass(frozen=True)
class ConfusionMatrix:
    """Objects by their class and by the class of the detection that found them."""

    classes: tuple[str, ...]
    """K names in the order of the category ids."""
    counts: np.ndarray
    """(K+1, K+1) int64, a row for each class of an object and a column for each class of a detection. The last row
    counts detections of nothing, the last column objects that were missed."""
    score: float
    """From which a detection counts."""


def compute_confusion(
    predictions: Path, dataset: Dataset, *, image_ids: Collection[int] | None = None, score: float = 0.3
) -> ConfusionMatrix:
    """Match boxes of all classes at an IoU of 0.5.

    The best detection of an image chooses first, and takes the object that it overlaps most; of equal ones one of its
    own class. Detections on a crowd of their class, and crowds, do not count.

    Raises:
        UserError: see ``score_predictions``.
    """
    truth = ground_truth_of(dataset, image_ids)
    found = read_predictions(predictions, truth, restricted=image_ids is not None)
    background = len(truth.classes)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for image in range(len(truth.image_ids)):
        objects, rows = truth.objects_of(image, image + 1), found.of(image, image + 1)
        chosen = rows.start + np.argsort(-found.scores[rows], kind="stable")[:_MOST]
        chosen = chosen[found.scores[chosen] >= score]
        wanted, labels, crowd = truth.categories[objects], found.categories[chosen], truth.crowd[objects]
        taken = _match(_overlaps(found.boxes[chosen], truth.boxes[objects], crowd), labels, wanted, crowd)
        hit = taken >= 0
        np.add.at(counts, (wanted[taken[hit]], labels[hit]), 1)
        np.add.at(counts, (background, labels[taken == -1]), 1)
        missed = np.setdiff1d(np.flatnonzero(~crowd), taken)
        np.add.at(counts, (wanted[missed], background), 1)
    return ConfusionMatrix(truth.classes, counts, score)


def _overlaps(found: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (n,m) of xywh boxes; with a crowd the part of the detection that is inside."""
    if not len(found) or not len(objects):
        return np.zeros((len(found), len(objects)))
    return np.asarray(coco_mask.iou(found, objects, crowd.astype(np.uint8)))


def _match(overlaps: np.ndarray, labels: np.ndarray, wanted: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The object of each detection in order; -1 for none, -2 where that does not count."""
    taken = np.full(len(labels), -1)
    free = ~crowd
    for k, label in enumerate(labels.tolist()):
        fits = free & (overlaps[k] >= _IOU)
        if fits.any():
            # the own class is worth less than any difference of overlaps
            taken[k] = np.argmax(np.where(fits, overlaps[k] + 1e-9 * (wanted == label), -1.0))
            free[taken[k]] = False
        elif (crowd & (wanted == label) & (overlaps[k] >= _IOU)).any():
            taken[k] = -2
    return taken
