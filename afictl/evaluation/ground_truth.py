"""An annotation file and predictions as the plain dicts that both COCO evaluators index."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from afictl.errors import UserError


def read_json(path: Path, what: str) -> Any:
    """The parsed file; ``what`` names its role in the error of a missing or broken file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: not valid JSON: {error}") from None


def read_ground_truth(path: Path, image_ids: Collection[int] | None) -> dict[str, list[dict[str, Any]]]:
    """Images, categories and objects of an annotation file, restricted to ``image_ids`` (None: all images).

    Objects get new ids from 1: the evaluators take id 0 for "unmatched". An object without an area counts
    with that of its box. Objects of an unknown image or category, or without a box, cannot be scored and are
    left out (``afictl data check`` names them).
    """
    content = read_json(path, "annotation file")
    if not isinstance(content, dict) or not {"images", "categories"} <= content.keys():
        raise UserError(f"annotation file {path}: needs the keys 'images', 'annotations' and 'categories'")
    wanted = None if image_ids is None else set(image_ids)
    images = [image for image in content["images"] if wanted is None or image["id"] in wanted]
    known_images = {image["id"] for image in images}
    known_categories = {category["id"] for category in content["categories"]}
    objects = [
        _scorable(annotation)
        for annotation in content.get("annotations", ())  # COCO's test images have none
        if annotation.get("image_id") in known_images
        and annotation.get("category_id") in known_categories
        and len(annotation.get("bbox") or ()) == 4
    ]
    return {"images": images, "categories": content["categories"], "annotations": _numbered(objects)}


def with_outlines(ground_truth: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]] | None:
    """The ground truth of the mask metric, or None when no object has an outline.

    In a set that gives outlines for only some objects, the others become regions to ignore, as crowds are:
    neither wanted nor punished.
    """
    if not any(has_outline(item) for item in ground_truth["annotations"]):
        return None
    objects = [
        {**item, "segmentation": outline(item)}
        if has_outline(item)
        else {**item, "segmentation": [_box_polygon(item["bbox"])], "iscrowd": 1}
        for item in ground_truth["annotations"]
    ]
    return {**ground_truth, "annotations": objects}


def has_outline(item: dict[str, Any]) -> bool:
    """Whether the object has a run-length mask or a polygon of at least three points."""
    return bool(outline(item))


def outline(item: dict[str, Any]) -> Any:
    """The object's segmentation without polygons of fewer than three points (falsy when nothing is left)."""
    segmentation = item.get("segmentation")
    if isinstance(segmentation, list):
        return [polygon for polygon in segmentation if len(polygon) >= 6]
    return segmentation


def check_predictions(
    predictions: Any, source: str, ground_truth: dict[str, list[dict[str, Any]]], restricted: bool
) -> list[dict[str, Any]]:
    """The predictions as a list for the images of the ground truth.

    With ``restricted`` those of other images are dropped (a limited evaluation); otherwise they are an error:
    the file belongs to another data set.
    """
    if not isinstance(predictions, list):
        raise UserError(
            f"{source}: predictions are a JSON list of COCO results, not {type(predictions).__name__}"
        )
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    kept = []
    for number, prediction in enumerate(predictions):
        problem = _malformed(prediction)
        if not problem and prediction["category_id"] not in categories:
            problem = f"category {prediction['category_id']} is not in the annotation file"
        if not problem and prediction["image_id"] in images:
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
    if not (isinstance(prediction["bbox"], list) and len(prediction["bbox"]) == 4):
        return "bbox is not [x, y, width, height]"
    return ""


def as_detections(predictions: list[dict[str, Any]], masks: bool) -> list[dict[str, Any]]:
    """Predictions with the ids and areas that the evaluators sort into size ranges.

    For masks the area is the mask's and not, as ``loadRes`` of pycocotools has it for results with boxes, the
    box's; detectron2 scores masks so too.
    """
    from pycocotools import mask as coco_mask

    detections = []
    for prediction in predictions:
        area = float(prediction["bbox"][2] * prediction["bbox"][3])
        if masks:
            area = float(coco_mask.area(prediction["segmentation"]))
        detections.append({**prediction, "area": area, "iscrowd": 0})
    return _numbered(detections)


def _scorable(annotation: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    area = annotation.get("area")
    return {
        **annotation,
        "area": float(width * height if area is None else area),
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }


def _numbered(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "id": number} for number, item in enumerate(items, start=1)]


def _box_polygon(xywh: list[float]) -> list[float]:
    x, y, width, height = xywh
    return [x, y, x + width, y, x + width, y + height, x, y + height]
