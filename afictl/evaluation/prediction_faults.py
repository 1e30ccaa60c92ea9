"""Error messages for COCO results that cannot be scored."""

from __future__ import annotations

import math

from afictl.data.formats.coco_records import FIELDS, NUMBER, Record, record_fault
from afictl.data.segmentation import normalize_segmentation
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth

_ID = FIELDS["annotations"]["image_id"]
_RESULT_ID = _ID._replace(is_valid=lambda value: _ID.is_valid(value) or (type(value) is float and value.is_integer()))
_RESULT_FIELDS = {
    "image_id": _RESULT_ID,
    "category_id": _RESULT_ID,
    "bbox": FIELDS["annotations"]["bbox"]._replace(optional=True),
    "score": NUMBER,
    "mask_score": NUMBER._replace(optional=True),
}


def require_results(predictions: object, source: str, ground_truth: GroundTruth, restricted: bool) -> None:
    """Check every entry of parsed predictions.

    Args:
        predictions: parsed JSON; a list of COCO results if it is valid.
        source: name of the predictions in errors.
        ground_truth: the images and categories of the results.
        restricted: accept results of other images.

    Raises:
        UserError: an entry is invalid; the first one is named.
    """
    if not isinstance(predictions, list):
        raise UserError(f"{source}: predictions are a JSON list of COCO results, not {type(predictions).__name__}")
    sizes = dict(zip(ground_truth.image_ids.tolist(), ground_truth.sizes_hw.tolist(), strict=True))
    categories = set(ground_truth.category_ids)
    for number, prediction in enumerate(predictions):
        fault = _fault(prediction)
        if not fault and prediction["category_id"] not in categories:
            fault = f"category {prediction['category_id']} is not in the annotation file"
        if not fault and prediction["image_id"] in sizes:
            fault = _mask_fault(prediction, sizes[prediction["image_id"]])
        elif not fault and not restricted:
            fault = f"image {prediction['image_id']} is not in the annotation file"
        if fault:
            raise UserError(f"{source}: entry {number}: {fault}")


def _fault(prediction: object) -> str:
    """Description of the fault of an invalid entry; empty for a valid one."""
    if not isinstance(prediction, dict):
        return "is not a mapping"
    if prediction.get("bbox") == []:  # pycocotools treats it as absent
        prediction = {**prediction, "bbox": None}
    box = prediction.get("bbox")
    missing = {"image_id", "category_id", "score"} - prediction.keys()
    if box is None and not prediction.get("segmentation"):
        missing.add("bbox")
    if missing:
        return f"has no {', '.join(sorted(missing))}"
    if fault := record_fault(prediction, _RESULT_FIELDS):
        return fault
    if not all(map(math.isfinite, (*(box or ()), prediction["score"]))):
        return "'bbox' and 'score' must be finite"
    mask_score = prediction.get("mask_score")
    return "" if mask_score is None or math.isfinite(mask_score) else "'mask_score' must be finite"


def _mask_fault(prediction: Record, size_hw: list[int]) -> str:
    """Description of the fault of an entry's mask; empty for a valid or absent mask."""
    value = prediction.get("segmentation")
    if not value:
        return ""
    if not isinstance(value, dict):
        return "'segmentation' is not a run-length mask, a mapping of 'size' and 'counts'"
    if normalize_segmentation(value, (size_hw[0], size_hw[1])) is None:
        return f"'segmentation' is not a run-length mask of the size of its image, [height, width] {size_hw}"
    return ""
