"""Scores of COCO results against the ground truth of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from afictl.data import Dataset
from afictl.data.plausibility import Implausibility, find_implausible
from afictl.errors import UserError
from afictl.evaluation.detection_limit import images_cut_by_coco
from afictl.evaluation.evaluators import EVALUATORS, PRECISION_OF
from afictl.evaluation.ground_truth import GroundTruth, GroundTruthMasks, ground_truth_of, masks_of
from afictl.evaluation.metrics import CLASS_METRICS, KINDS, METRICS, Precision
from afictl.evaluation.predictions import Predictions, read_predictions
from afictl.garbage_collection import paused_garbage_collection


@dataclass(frozen=True)
class Evaluation:
    """Metrics of predictions; a metric is None without objects."""

    metrics: dict[str, float | None]
    """``METRICS`` by full key: ``box/AP``, ..., and for masks ``mask/AP``, ..."""
    per_class: list[dict[str, Any]]
    """For each class its ``name``, number of ``objects`` without crowds, and ``CLASS_METRICS`` by full key."""
    precision: Mapping[str, Precision] = field(repr=False, compare=False)
    """Precision of ``box`` and, where masks are scored, of ``mask``."""
    cut_images: int = field(default=0, compare=False)
    """Images with more than 100 predictions of a class, of which COCO's metrics count the best 100."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Signs that boxes or masks of either file are not what COCO's formats say; they are scored as they are."""

    @property
    def kinds(self) -> list[str]:
        """``box`` and, where masks are scored, ``mask``."""
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

    Args:
        predictions: COCO result dicts, or a JSON file of them, which needs less memory. Masks with a ``mask_score`` are
            ranked by it instead of ``score``.
        dataset: dataset, or COCO annotation file; see ``ground_truth_of``.
        image_ids: restricts predictions and ground truth to these images.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference with the same numbers.
        masks: whether to score masks too, if the ground truth has any; None: if the predictions have masks.

    Raises:
        UserError: an unreadable file, or a prediction for an unknown image or category.
    """
    if evaluator not in EVALUATORS:
        raise UserError(f"unknown evaluator '{evaluator}'; choose {' or '.join(EVALUATORS)}")
    with paused_garbage_collection():
        return _score(predictions, dataset, image_ids, PRECISION_OF[evaluator], masks)


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
    cut_images = images_cut_by_coco(loaded.images, loaded.categories)
    notes = _notes(ground_truth.dataset, loaded.find_implausible(), source, masks=truth_masks is not None)
    return Evaluation(metrics, _per_class(ground_truth, precision), precision, cut_images, notes)


def _notes(dataset: Dataset, predictions: Implausibility, source: object, *, masks: bool) -> tuple[str, ...]:
    name = f"predictions {source}" if isinstance(source, Path) else "predictions"
    truth = find_implausible(dataset, masks)
    notes = [f"{dataset.annotation_file}: {text}" for text in truth if text]
    return (*notes, *(f"{name}: {text}" for text in predictions if text))


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
