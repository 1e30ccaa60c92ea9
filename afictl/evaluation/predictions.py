"""COCO results from outside: the check of a list of predictions, and what the evaluators index of it."""

from __future__ import annotations

import math
from typing import Any

from pycocotools import mask as coco_mask

from afictl.data.annotations import FIELDS, Field, record_fault
from afictl.data.masks import normalize_segmentation
from afictl.errors import UserError
from afictl.evaluation.ground_truth import Dataset, numbered, sizes_of

_NUMBER = Field("a number", lambda value: isinstance(value, int | float))
_RESULT = {
    **{name: FIELDS["annotations"][name] for name in ("image_id", "category_id", "bbox")},
    "score": _NUMBER,
    "mask_score": _NUMBER._replace(optional=True),
}


def check_predictions(predictions: Any, source: str, ground_truth: Dataset, restricted: bool) -> list[dict[str, Any]]:
    """The predictions as a list for the images of the ground truth.

    With ``restricted`` those of other images are dropped (a limited evaluation); otherwise they are an error:
    the file belongs to another data set.
    """
    if not isinstance(predictions, list):
        raise UserError(f"{source}: predictions are a JSON list of COCO results, not {type(predictions).__name__}")
    sizes = sizes_of(ground_truth)
    categories = {category["id"] for category in ground_truth["categories"]}
    kept = []
    for number, prediction in enumerate(predictions):
        problem = _malformed(prediction)
        if not problem and prediction["category_id"] not in categories:
            problem = f"category {prediction['category_id']} is not in the annotation file"
        if not problem and prediction["image_id"] in sizes:
            problem = _mask_problem(prediction, sizes[prediction["image_id"]])
            kept.append(prediction)
        elif not problem and not restricted:
            problem = f"image {prediction['image_id']} is not in the annotation file"
        if problem:
            raise UserError(f"{source}: entry {number}: {problem}")
    return kept


def _malformed(prediction: Any) -> str:
    """What keeps an entry from being a COCO result, or an empty string."""
    if not isinstance(prediction, dict):
        return "is not a mapping"
    missing = {"image_id", "category_id", "bbox", "score"} - prediction.keys()
    if missing:
        return f"has no {', '.join(sorted(missing))}"
    if fault := record_fault(prediction, _RESULT):
        return fault
    if not all(map(math.isfinite, (*prediction["bbox"], prediction["score"]))):
        return "'bbox' and 'score' must be finite"
    if not math.isfinite(_mask_score(prediction)):
        return "'mask_score' must be finite"
    return ""


def _mask_score(prediction: dict[str, Any]) -> float:
    """What ranks the mask: a detector with mask scoring judges it apart from the box."""
    score = prediction.get("mask_score")
    return float(prediction["score"] if score is None else score)


def _mask_problem(prediction: dict[str, Any], size_hw: tuple[int, int]) -> str:
    """What keeps an entry's mask, where it has one, from being scored, or an empty string."""
    value = prediction.get("segmentation")
    if not value:
        return ""
    if not isinstance(value, dict):
        return "'segmentation' is not a run-length mask, a mapping of 'size' and 'counts'"
    if normalize_segmentation(value, size_hw) is None:
        return f"the 'segmentation' is no run-length mask of its image's size [height, width] {list(size_hw)}"
    return ""


def as_detections(predictions: list[dict[str, Any]], masks: bool) -> list[dict[str, Any]]:
    """Predictions with the ids and areas that the evaluators sort into size ranges.

    For masks the area is the mask's and not, as ``loadRes`` of pycocotools has it for results with boxes, the
    box's; detectron2 scores masks so too. The score is ``mask_score`` where the prediction has one.
    """
    detections = []
    for prediction in predictions:
        area = float(prediction["bbox"][2] * prediction["bbox"][3])
        if masks:
            mask = prediction["segmentation"]
            if isinstance(mask["counts"], list):
                mask = coco_mask.frPyObjects(mask, *mask["size"])
            area = float(coco_mask.area(mask))
            prediction = {**prediction, "segmentation": mask, "score": _mask_score(prediction)}
        detections.append({**prediction, "area": area, "iscrowd": 0})
    return numbered(detections)
