"""How much detectors disagree on an image: what one of them finds and another does not.

A detection is *shown* where its score reaches the threshold. It has a *partner* in another method where that finds the
same class at an IoU of at least 0.5, with a score of at least half the threshold: a box that only slips below the
threshold is no difference worth looking at. The disagreement of two methods is the number of shown detections of either
without a partner in the other; that of several is the mean over their pairs. So 0 says that all show the same objects,
and 2 that two methods differ in two objects, whatever else is in the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_IOU = 0.5
_LENIENCE = 0.5
"""Part of the threshold from which a detection can be a partner."""


class Found(NamedTuple):
    """What one method finds in one image."""

    boxes: npt.NDArray[Any]
    """(n, 4) xyxy, in the same pixels for all methods."""
    labels: npt.NDArray[Any]
    """(n,) class of each, of any numbering that the methods share."""
    scores: npt.NDArray[Any]
    """(n,)"""


def rank_by_disagreement(
    predictions: Mapping[str, Iterable[Mapping[str, Any]]], threshold: float = 0.5, limit: int | None = None
) -> list[tuple[int, float]]:
    """The images on which methods differ, most first.

    Args:
        predictions: COCO results of each method, with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height)
            and ``score``; other keys are not looked at, and nothing of a result below half the threshold is kept.
        threshold: score from which a detection is shown.
        limit: most images.

    Returns:
        Image id and disagreement, which is above 0; images of the same disagreement in the order of their ids.
    """
    lowest = threshold * _LENIENCE
    places: dict[int, int] = {}
    table = [
        (places.setdefault(row["image_id"], len(places)), method, row["category_id"], row["score"], *row["bbox"])
        for method, rows in enumerate(predictions.values())
        for row in rows
        if row["score"] >= lowest
    ]
    if not table:
        return []
    found = _by_image(np.array(table, dtype=np.float64), len(predictions))
    scores = {image_id: disagreement(next(found), threshold) for image_id in places}
    order = sorted((image_id for image_id, score in scores.items() if score), key=lambda i: (-scores[i], i))
    return [(image_id, scores[image_id]) for image_id in order[:limit]]


def disagreement(methods: Sequence[Found], threshold: float) -> float:
    """Mean number of shown detections without a partner over all pairs of ``methods``, for one image.

    Raises:
        ValueError: fewer than two methods.
    """
    if len(methods) < 2:
        raise ValueError("one method cannot disagree with itself; give two or more")
    missing = sum(int(counts.sum()) for counts in lacking(methods, threshold))
    return 2 * missing / (len(methods) * (len(methods) - 1))


def lacking(
    methods: Sequence[Found], threshold: float, known: Sequence[Sequence[int]] | None = None
) -> list[npt.NDArray[np.int64]]:
    """For each of ``methods`` (n,): in how many others a detection has no partner; 0 where it is not shown.

    With ``known``, the labels that each method can give, those others do not count that do not know the class.
    """
    boxes, labels, scores = (np.concatenate(field) for field in zip(*methods, strict=True))
    owner = np.repeat(np.arange(len(methods)), [len(found.scores) for found in methods])
    able = scores >= threshold * _LENIENCE
    shown = scores >= threshold
    counts = np.zeros(len(scores), dtype=np.int64)
    for label in np.unique(labels[shown]):
        mine = labels == label
        partners = _iou(boxes[shown & mine], boxes[able & mine]) >= _IOU
        columns = owner[able & mine]
        having = [partners[:, columns == method].any(axis=1) for method in range(len(methods))]
        able_to = sum(label in labels_of for labels_of in known) if known else len(methods)
        counts[shown & mine] = able_to - np.sum(having, axis=0)  # each is its own partner
    return np.split(counts, np.cumsum([len(found.scores) for found in methods])[:-1])


def _by_image(table: npt.NDArray[np.float64], methods: int) -> Iterator[list[Found]]:
    """Rows of image, method, class, score, x, y, width and height: image by image what each method finds."""
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    _, starts = np.unique(table[:, 0], return_index=True)
    for rows in np.split(table, starts[1:]):
        boxes = np.concatenate((rows[:, 4:6], rows[:, 4:6] + rows[:, 6:8]), axis=1)
        parts = np.searchsorted(rows[:, 1], np.arange(1, methods))
        fields = (np.split(field, parts) for field in (boxes, rows[:, 2], rows[:, 3]))
        yield [Found(*found) for found in zip(*fields, strict=True)]


def _iou(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, 4) and (m, 4) -> (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b)]
    union = areas[0][:, None] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
