"""Error messages for COCO results that cannot be scored."""

from __future__ import annotations

import math

from afictl.data.formats.coco_records import FIELDS, NUMBER, record_fault
from afictl.data.segmentation import mask_fault
from afictl.errors import UserError, describe_type
from afictl.evaluation.ground_truth import GroundTruth

_RESULT_FIELDS = {
    "image_id": FIELDS["annotations"]["image_id"],
    "category_id": FIELDS["annotations"]["category_id"],
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
        raise UserError(f"{source}: predictions are a JSON list of COCO results, not {describe_type(predictions)}")
    sizes = dict(zip(ground_truth.image_ids.tolist(), ground_truth.sizes_hw.tolist(), strict=True))
    categories = set(ground_truth.category_ids)
    for number, prediction in enumerate(predictions):
        fault = _fault(prediction)
        if not fault and prediction["category_id"] not in categories:
            fault = f"category {prediction['category_id']} is not in the annotation file"
        if not fault and prediction["image_id"] in sizes:
            height, width = sizes[prediction["image_id"]]
            fault = mask_fault(prediction.get("segmentation"), (height, width))
        elif not fault and not restricted:
            fault = f"image {prediction['image_id']} is not in the annotation file"
        if fault:
            raise UserError(f"{source}: entry {number}: {fault}")


def _fault(prediction: object) -> str:
    """Description of the fault of an invalid entry; empty for a valid one."""
    if not isinstance(prediction, dict):
        return "is not a mapping"
    box = prediction.get("bbox")
    if box == [] or box != box:  # pycocotools treats the first as absent, pandas writes NaN for absent values
        prediction, box = {**prediction, "bbox": None}, None
    missing = {"image_id", "category_id", "score"} - prediction.keys()
    mask = prediction.get("segmentation")
    if box is None and (not mask or mask != mask):
        missing.add("bbox")
    if missing:
        return f"has no {', '.join(sorted(missing))}"
    if fault := record_fault(prediction, _RESULT_FIELDS):
        return fault
    if not all(map(math.isfinite, (*(box or ()), prediction["score"]))):
        return "'bbox' and 'score' must be finite"
    mask_score = prediction.get("mask_score")
    return "" if mask_score is None or math.isfinite(mask_score) else "'mask_score' must be finite"
