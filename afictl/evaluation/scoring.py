"""Scores of COCO results against an annotation file, by either of two evaluators that give the same numbers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from afictl.data import Dataset
from afictl.errors import UserError
from afictl.evaluation.evaluators import EVALUATORS, PRECISION_OF
from afictl.evaluation.ground_truth import GroundTruth, GroundTruthMasks, ground_truth_of, masks_of
from afictl.evaluation.metrics import CLASS_METRICS, KINDS, METRICS, Precision
from afictl.evaluation.predictions import Predictions, read_predictions


@dataclass(frozen=True)
class Evaluation:
    """Metrics of predictions; None where there is no object to find."""

    metrics: dict[str, float | None]
    """All ``METRICS`` by full key: ``box/AP``, ..., with masks also ``mask/AP``, ..."""
    per_class: list[dict[str, Any]]
    """For each class ``name``, ``objects`` (without crowds) and the ``CLASS_METRICS`` by full key."""
    precision: Mapping[str, Precision] = field(repr=False, compare=False)
    """Of ``box``, and of ``mask`` where masks are scored."""

    @property
    def kinds(self) -> list[str]:
        """``box``, and ``mask`` where masks are scored."""
        return [kind for kind in KINDS if any(key.startswith(f"{kind}/") for key in self.metrics)]


def score_predictions(
    predictions: list[dict[str, Any]] | str | Path,
    dataset: Dataset | str | Path,
    *,
    image_ids: Collection[int] | None = None,
    evaluator: str = "hotcoco",
    masks: bool | None = None,
) -> Evaluation:
    """Score COCO results against the annotations of a dataset.

    Masks of predictions and of objects are in memory a few images at a time.

    Args:
        predictions: COCO result dicts, or a JSON file of them, which needs less memory. Masks with a ``mask_score`` are
            ranked by it instead of ``score``.
        dataset: a dataset, or a COCO instances file; see ``ground_truth_of``.
        image_ids: restricts both sides to these images.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference.
        masks: score masks too; None: if both sides have masks. Without outlines in the ground truth only boxes are
            scored.

    Raises:
        UserError: a file that cannot be read, a prediction for an unknown image or category.
    """
    if evaluator not in EVALUATORS:
        raise UserError(f"unknown evaluator '{evaluator}'; choose {' or '.join(EVALUATORS)}")
    with _without_garbage_collection():
        return _score(predictions, dataset, image_ids, PRECISION_OF[evaluator], masks)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection inside.

    Millions of short-lived records, none of them in a cycle, trigger it often, and with PyTorch's modules in memory it
    takes half of the time.
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
    dataset: Dataset | str | Path,
    image_ids: Collection[int] | None,
    precision_of: Callable[[GroundTruth, Predictions, GroundTruthMasks | None], Precision],
    masks: bool | None,
) -> Evaluation:
    ground_truth = ground_truth_of(Path(dataset) if isinstance(dataset, str) else dataset, image_ids)
    source = Path(predictions) if isinstance(predictions, str | Path) else predictions
    loaded = read_predictions(source, ground_truth, restricted=image_ids is not None)
    truth_masks = masks_of(ground_truth) if (loaded.has_mask.any() if masks is None else masks) else None
    precision = {"box": precision_of(ground_truth, loaded, None)}
    if truth_masks is not None:
        precision["mask"] = precision_of(ground_truth, loaded, truth_masks)
    metrics = {f"{kind}/{metric.key}": metric.getter(p) for kind, p in precision.items() for metric in METRICS}
    return Evaluation(metrics, _per_class(ground_truth, precision), precision)


def _per_class(ground_truth: GroundTruth, precision: Mapping[str, Precision]) -> list[dict[str, Any]]:
    categories = ground_truth.categories[~ground_truth.crowd]
    counts = np.bincount(categories, minlength=len(ground_truth.classes)).tolist()
    rows = []
    for k, (name, count) in enumerate(zip(ground_truth.classes, counts, strict=True)):
        row = {"name": name, "objects": count}
        for kind, values in precision.items():
            row |= {f"{kind}/{metric.key}": metric.getter(values[:, :, [k]]) for metric in CLASS_METRICS}
        rows.append(row)
    return rows
