"""What is wrong with COCO results from outside, in words."""

from __future__ import annotations

import math
from typing import Any

from afictl.data.formats.coco_records import FIELDS, Field, record_fault
from afictl.data.segmentation import normalize_segmentation
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth

_NUMBER = Field("a number", lambda value: isinstance(value, int | float))
_ID = FIELDS["annotations"]["image_id"]
_ID_OF_RESULT = _ID._replace(
    is_valid=lambda value: _ID.is_valid(value) or (type(value) is float and value.is_integer())
)
_RESULT = {
    "image_id": _ID_OF_RESULT,
    "category_id": _ID_OF_RESULT,
    "bbox": FIELDS["annotations"]["bbox"]._replace(optional=True),
    "score": _NUMBER,
    "mask_score": _NUMBER._replace(optional=True),
}


def require_results(predictions: Any, source: str, ground_truth: GroundTruth, restricted: bool) -> None:
    """Look at every entry of parsed predictions by itself.

    Args:
        predictions: what should be a list of COCO results.
        source: what they are called.
        ground_truth: what they are results for.
        restricted: let results of other images pass.

    Raises:
        UserError: the first entry that cannot be scored, and why.
    """
    if not isinstance(predictions, list):
        raise UserError(f"{source}: predictions are a JSON list of COCO results, not {type(predictions).__name__}")
    sizes = dict(zip(ground_truth.image_ids.tolist(), ground_truth.sizes_hw.tolist(), strict=True))
    categories = set(ground_truth.category_ids)
    for number, prediction in enumerate(predictions):
        problem = _malformed(prediction)
        if not problem and prediction["category_id"] not in categories:
            problem = f"category {prediction['category_id']} is not in the annotation file"
        if not problem and prediction["image_id"] in sizes:
            problem = _mask_problem(prediction, sizes[prediction["image_id"]])
        elif not problem and not restricted:
            problem = f"image {prediction['image_id']} is not in the annotation file"
        if problem:
            raise UserError(f"{source}: entry {number}: {problem}")


def _malformed(prediction: Any) -> str:
    """What keeps an entry from being a COCO result, or an empty string."""
    if not isinstance(prediction, dict):
        return "is not a mapping"
    if prediction.get("bbox") == []:  # in pycocotools it is none
        prediction = {**prediction, "bbox": None}
    box = prediction.get("bbox")
    missing = {"image_id", "category_id", "score"} - prediction.keys()
    if box is None and not prediction.get("segmentation"):
        missing.add("bbox")
    if missing:
        return f"has no {', '.join(sorted(missing))}"
    if fault := record_fault(prediction, _RESULT):
        return fault
    if not all(map(math.isfinite, (*(box or ()), prediction["score"]))):
        return "'bbox' and 'score' must be finite"
    mask_score = prediction.get("mask_score")
    return "" if mask_score is None or math.isfinite(mask_score) else "'mask_score' must be finite"


def _mask_problem(prediction: dict[str, Any], size_hw: list[int]) -> str:
    """What keeps an entry's mask, where it has one, from being scored, or an empty string."""
    value = prediction.get("segmentation")
    if not value:
        return ""
    if not isinstance(value, dict):
        return "'segmentation' is not a run-length mask, a mapping of 'size' and 'counts'"
    if normalize_segmentation(value, (size_hw[0], size_hw[1])) is None:
        return f"the 'segmentation' is no run-length mask of its image's size [height, width] {size_hw}"
    return ""
