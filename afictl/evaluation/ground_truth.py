"""An annotation file as the plain dicts that both COCO evaluators index."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from afictl.data.annotations import FIELDS, check_records, record_fault
from afictl.data.files import read_instances
from afictl.data.masks import normalize_segmentation

Dataset = dict[str, list[dict[str, Any]]]
"""``images``, ``categories`` and ``annotations``."""

_SCORED = {name: field for name, field in FIELDS["annotations"].items() if name != "id"}


def read_ground_truth(path: Path, image_ids: Collection[int] | None) -> Dataset:
    """Images, categories and objects of an annotation file, restricted to ``image_ids`` (None: all images).

    Objects get new ids from 1: the evaluators take id 0 for "unmatched". An object without an area counts
    with that of its box. Objects of an unknown image or category, or without a box, cannot be scored and are
    left out (``afictl data check`` names them).

    Raises:
        UserError: a file that cannot be read, or a fault in its images or categories.
    """
    content = read_instances(path, needs_objects=False)
    for key in ("images", "categories"):
        check_records(path, key, content[key], FIELDS[key])
    wanted = None if image_ids is None else set(image_ids)
    images = [image for image in content["images"] if wanted is None or image["id"] in wanted]
    known_images = {image["id"] for image in images}
    known_categories = {category["id"] for category in content["categories"]}
    objects = [
        _scorable(annotation)
        for annotation in content["annotations"]
        if record_fault(annotation, _SCORED) is None
        and annotation["image_id"] in known_images
        and annotation["category_id"] in known_categories
        and all(map(math.isfinite, annotation["bbox"]))
    ]
    return {"images": images, "categories": content["categories"], "annotations": numbered(objects)}


def sizes_of(ground_truth: Dataset) -> dict[int, tuple[int, int]]:
    """Height and width of each image by its id."""
    return {image["id"]: (int(image["height"]), int(image["width"])) for image in ground_truth["images"]}


def with_outlines(ground_truth: Dataset) -> Dataset | None:
    """The ground truth of the mask metric, or None when no object has a mask.

    An object has one where training would take it so. In a set that gives usable masks for only some objects,
    the others become regions to ignore, as crowds are: neither wanted nor punished.
    """
    sizes = sizes_of(ground_truth)
    items = ground_truth["annotations"]
    outlines = [_outline(item.get("segmentation"), sizes[item["image_id"]]) for item in items]
    if not any(outlines):
        return None
    objects = [
        {**item, "segmentation": outline}
        if outline
        else {**item, "segmentation": [_box_polygon(item["bbox"])], "iscrowd": 1}
        for item, outline in zip(items, outlines, strict=True)
    ]
    return {**ground_truth, "annotations": objects}


def _outline(value: Any, size_hw: tuple[int, int]) -> Any:
    """The usable part of a segmentation in the evaluators' types, None where there is none."""
    found = normalize_segmentation(value, size_hw)
    return [polygon.tolist() for polygon in found] if isinstance(found, list) else found


def _scorable(annotation: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    area = annotation.get("area")
    return {
        **annotation,
        "area": float(width * height if area is None else area),
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }


def numbered(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with ids from 1."""
    return [{**item, "id": number} for number, item in enumerate(items, start=1)]


def _box_polygon(xywh: list[float]) -> list[float]:
    x, y, width, height = xywh
    return [x, y, x + width, y, x + width, y + height, x, y + height]
