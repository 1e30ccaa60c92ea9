"""Average precision as COCO defines it, by either of two evaluators that give the same numbers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from afictl.errors import UserError
from afictl.evaluation.evaluators import EVALUATORS, PRECISION_OF, Precision
from afictl.evaluation.ground_truth import GroundTruth, Outlines, outlines_of, read_ground_truth
from afictl.evaluation.predictions import Predictions, read_predictions

_AREAS = {"APs": 1, "APm": 2, "APl": 3}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. AP values are points in 0..100, None where no such object exists."""

    metrics: dict[str, float | None]
    """``box/AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; with masks also ``mask/AP``, ..."""
    per_class: list[dict[str, Any]]
    """For each class ``name``, ``objects`` (without crowds), ``box/AP``, ``box/AP50``, also for masks."""
    precision: Mapping[str, Precision] = field(repr=False, compare=False)
    """Of ``box``, and ``mask`` where scored: what AP is the mean of."""


def score_predictions(
    predictions: list[dict[str, Any]] | str | Path,
    annotation_file: str | Path,
    *,
    image_ids: Collection[int] | None = None,
    evaluator: str = "hotcoco",
    masks: bool | None = None,
) -> Evaluation:
    """Score COCO results against an annotation file.

    Masks of a file are in memory a few images at a time, those of the predictions and those of the objects.

    Args:
        predictions: COCO result dicts, or a JSON file of them, which saves memory. Masks that have a ``mask_score``
            are ranked by it instead of ``score``.
        annotation_file: COCO instances file.
        image_ids: restricts both sides to these images.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference.
        masks: score masks too; None does so when both sides have some. Without outlines in the ground truth
            only boxes are scored.

    Raises:
        UserError: a file that cannot be read, a prediction for an unknown image or category.
    """
    if evaluator not in EVALUATORS:
        raise UserError(f"unknown evaluator '{evaluator}'; choose {' or '.join(EVALUATORS)}")
    with _uncollected():
        return _score(predictions, annotation_file, image_ids, PRECISION_OF[evaluator], masks)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: millions of short-lived records make it run often, and none of them is in a cycle.

    Beside the modules of PyTorch it would take half of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _score(
    predictions: list[dict[str, Any]] | str | Path,
    annotation_file: str | Path,
    image_ids: Collection[int] | None,
    precision_of: Callable[[GroundTruth, Predictions, Outlines | None], Precision],
    masks: bool | None,
) -> Evaluation:
    ground_truth = read_ground_truth(Path(annotation_file), image_ids)
    source = Path(predictions) if isinstance(predictions, str | Path) else predictions
    found = read_predictions(source, ground_truth, restricted=image_ids is not None)
    outlines = outlines_of(ground_truth) if (found.has_mask.any() if masks is None else masks) else None
    ground_truth.segmentations.clear()
    precision = {"box": precision_of(ground_truth, found, None)}
    if outlines is not None:
        precision["mask"] = precision_of(ground_truth, found, outlines)
    metrics = {f"{kind}/{name}": value for kind, p in precision.items() for name, value in _summary(p).items()}
    return Evaluation(metrics, _per_class(ground_truth, precision), precision)


def _summary(precision: Precision) -> dict[str, float | None]:
    overall = precision[..., 0]
    sizes = {name: _mean(precision[..., area]) for name, area in _AREAS.items()}
    return {"AP": _mean(overall), "AP50": _mean(overall[0]), "AP75": _mean(overall[5]), **sizes}


def _per_class(ground_truth: GroundTruth, precisions: dict[str, Precision]) -> list[dict[str, Any]]:
    wanted = ground_truth.categories[~ground_truth.crowd]
    counts = np.bincount(wanted, minlength=len(ground_truth.classes)).tolist()
    rows = []
    for column, (name, count) in enumerate(zip(ground_truth.classes, counts, strict=True)):
        row = {"name": name, "objects": count}
        for kind, precision in precisions.items():
            row[f"{kind}/AP"] = _mean(precision[:, :, column, 0])
            row[f"{kind}/AP50"] = _mean(precision[0, :, column, 0])
        rows.append(row)
    return rows


def _mean(precision: Precision) -> float | None:
    """Mean in points, None where COCO has -1 throughout: there is nothing to find."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else None
