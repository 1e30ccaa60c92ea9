"""Average precision as COCO defines it, by either of two evaluators that give the same numbers."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from afictl.data.files import read_json
from afictl.errors import UserError
from afictl.evaluation.ground_truth import Dataset, read_ground_truth, with_outlines
from afictl.evaluation.predictions import as_detections, check_predictions

Evaluator = Literal["faster-coco-eval", "pycocotools"]
EVALUATORS: tuple[str, ...] = get_args(Evaluator)

_Precision = npt.NDArray[np.float64]
_AREAS = {"APs": 1, "APm": 2, "APl": 3}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. AP values are points in 0..100, None where no such object exists."""

    metrics: dict[str, float | None]
    """``box/AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; with masks also ``mask/AP``, ..."""
    per_class: list[dict[str, Any]]
    """For each class ``name``, ``objects`` (without crowds), ``box/AP``, ``box/AP50``, also for masks."""
    predictions: list[dict[str, Any]]
    """COCO result dicts: category ids of the data set, ``bbox`` as xywh in pixels of the original image. Masks of a
    detector that scores them apart from the boxes have a ``mask_score``, which ranks them instead of ``score``."""


def score_predictions(
    predictions: list[dict[str, Any]] | str | Path,
    annotation_file: str | Path,
    *,
    image_ids: Collection[int] | None = None,
    evaluator: str = "faster-coco-eval",
    masks: bool | None = None,
) -> Evaluation:
    """Score COCO results against an annotation file.

    Args:
        predictions: COCO result dicts, or a JSON file of them.
        annotation_file: COCO instances file.
        image_ids: restricts both sides to these images.
        evaluator: ``"faster-coco-eval"`` or ``"pycocotools"``.
        masks: score masks too; None does so when both sides have some. Without outlines in the ground truth
            only boxes are scored.

    Raises:
        UserError: a file that cannot be read, a prediction for an unknown image or category.
    """
    if evaluator not in EVALUATORS:
        raise UserError(f"unknown evaluator '{evaluator}'; choose {' or '.join(EVALUATORS)}")
    source = "predictions"
    if isinstance(predictions, str | Path):
        source = f"predictions {predictions}"
        predictions = read_json(Path(predictions), "predictions")
    ground_truth = read_ground_truth(Path(annotation_file), image_ids)
    if not ground_truth["images"]:
        raise UserError(f"annotation file {annotation_file}: no images to evaluate")
    predictions = check_predictions(predictions, source, ground_truth, restricted=image_ids is not None)

    precisions = {"box": _precision(ground_truth, as_detections(predictions, masks=False), "bbox", evaluator)}
    with_masks = [item for item in predictions if item.get("segmentation")]
    outlines = with_outlines(ground_truth)
    if outlines is not None and (bool(with_masks) if masks is None else masks):
        precisions["mask"] = _precision(outlines, as_detections(with_masks, masks=True), "segm", evaluator)
    metrics = {f"{kind}/{name}": value for kind, p in precisions.items() for name, value in _summary(p).items()}
    return Evaluation(metrics, _per_class(ground_truth, precisions), predictions)


def _precision(ground_truth: Dataset, detections: list[dict[str, Any]], iou_type: str, evaluator: str) -> _Precision:
    """Precision of shape (10 IoU thresholds, 101 recalls, classes by id, 4 areas, 3 detection limits)."""
    coco, make = _library(evaluator)
    with contextlib.redirect_stdout(io.StringIO()):  # both report their progress on the console
        sides = [
            _indexed(coco(), {**ground_truth, "annotations": [dict(item) for item in items]})
            for items in (ground_truth["annotations"], detections)
        ]
        scorer = make(*sides, iou_type)
        scorer.evaluate()
        scorer.accumulate()
    return np.asarray(scorer.eval["precision"])


def _library(evaluator: str) -> tuple[Any, Any]:
    """The index class and the metric class."""
    if evaluator == "pycocotools":
        from pycocotools import coco, cocoeval

        return coco.COCO, cocoeval.COCOeval
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _indexed(coco: Any, dataset: Dataset) -> Any:
    """Index a data set in memory; ``loadRes`` of pycocotools fails where there are no detections."""
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _summary(precision: _Precision) -> dict[str, float | None]:
    overall = precision[:, :, :, 0, -1]
    sizes = {name: _mean(precision[:, :, :, area, -1]) for name, area in _AREAS.items()}
    return {"AP": _mean(overall), "AP50": _mean(overall[0]), "AP75": _mean(overall[5]), **sizes}


def _per_class(ground_truth: Dataset, precisions: dict[str, _Precision]) -> list[dict[str, Any]]:
    rows = []
    counts = Counter(item["category_id"] for item in ground_truth["annotations"] if not item["iscrowd"])
    for column, category in enumerate(sorted(ground_truth["categories"], key=lambda item: item["id"])):
        row = {"name": category["name"], "objects": counts[category["id"]]}
        for kind, precision in precisions.items():
            row[f"{kind}/AP"] = _mean(precision[:, :, column, 0, -1])
            row[f"{kind}/AP50"] = _mean(precision[0, :, column, 0, -1])
        rows.append(row)
    return rows


def _mean(precision: _Precision) -> float | None:
    """Mean in points, None where COCO has -1 throughout: there is nothing to find."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else None
