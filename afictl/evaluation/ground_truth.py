"""An annotation file as columns that both evaluators read, image by image."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from afictl.data.folders import read_instances
from afictl.data.formats.coco_records import FIELDS, check_records, record_fault
from afictl.data.segmentation import normalize_segmentation
from afictl.errors import UserError
from afictl.evaluation.mask_file import MaskFile

_SCORED = {name: field for name, field in FIELDS["annotations"].items() if name != "id"}
_NONE = msgspec.Raw(b"null")


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Object(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: float | None = None
    segmentation: Any = None


class _RawObject(_Object, gc=False):
    segmentation: msgspec.Raw = _NONE
    """Not parsed before its image's turn: lists of numbers take twenty times the room of their text."""


class _Contents(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_RawObject] = []


@dataclass(frozen=True)
class GroundTruth:
    """n images in the order of their ids, and m objects in the order of their images, then of the file."""

    image_ids: np.ndarray
    """(n,) int64."""
    sizes_hw: np.ndarray
    """(n,2) int64."""
    category_ids: tuple[int, ...]
    classes: tuple[str, ...]
    """In the order of the ids."""
    images: np.ndarray
    """(m,) int64, position of each object's image."""
    categories: np.ndarray
    """(m,) int64, position of each object's category."""
    boxes: np.ndarray
    """(m,4) float64 xywh as in the file."""
    areas: np.ndarray
    """(m,) float64; the box's where the file has none."""
    crowd: np.ndarray
    """(m,) bool: a region to ignore."""
    segmentations: list[Any]
    """As in the file, or the text of it as ``msgspec.Raw``."""

    def objects_of(self, first: int, last: int) -> slice:
        """The rows of objects of the images from ``first`` to before ``last``."""
        return slice(*np.searchsorted(self.images, [first, last]).tolist())


@dataclass(frozen=True)
class Outlines:
    """What the mask metric needs of the objects beside their columns.

    An object has a mask where training would take it so. In a set that gives usable masks for only some objects,
    the others become regions to ignore, as crowds are: neither wanted nor punished.
    """

    masks: MaskFile
    crowd: np.ndarray
    """(m,) bool."""


def read_ground_truth(path: Path, image_ids: Collection[int] | None) -> GroundTruth:
    """Images, categories and objects of an annotation file, restricted to ``image_ids`` (None: all images).

    Objects of an unknown image or category, or without a box, cannot be scored and are left out (``afictl data
    check`` names them).

    Raises:
        UserError: a file that cannot be read, without images, or with a fault in its images or categories.
    """
    try:
        contents = msgspec.json.decode(path.read_bytes(), type=_Contents)
        return _columns(path, contents.images, contents.categories, contents.annotations, image_ids)
    except (OSError, ValueError, OverflowError):  # something is unusual: look at every value
        images, categories, objects = _checked(path)
    return _columns(path, images, categories, objects, image_ids)


def _checked(path: Path) -> tuple[list[_Image], list[_Category], list[_Object]]:
    """The contents of a file of which not every value is as it should be."""
    content = read_instances(path, needs_objects=False)
    for key in ("images", "categories"):
        check_records(path, key, content[key], FIELDS[key])
    sound = [record for record in content["annotations"] if record_fault(record, _SCORED) is None]
    return (
        [_Image(r["id"], r["file_name"], int(r["height"]), int(r["width"])) for r in content["images"]],
        [_Category(r["id"], r["name"]) for r in content["categories"]],
        [
            _Object(r["image_id"], r["category_id"], r["bbox"], *map(r.get, ("area", "iscrowd", "segmentation")))
            for r in sound
        ],
    )


def _columns(
    path: Path, images: list[_Image], categories: list[_Category], objects: Any, wanted: Collection[int] | None
) -> GroundTruth:
    """Raises ``ValueError`` at ids that occur twice or a size that is none."""
    for records in (images, categories):
        if len({record.id for record in records}) < len(records):
            raise ValueError
    if not all(1 <= side < 2**31 for image in images for side in (image.height, image.width)):
        raise ValueError
    if wanted is not None:
        chosen = set(wanted)
        images = [image for image in images if image.id in chosen]
    if not images:
        raise UserError(f"annotation file {path}: no images to evaluate")
    images, categories = sorted(images, key=attrgetter("id")), sorted(categories, key=attrgetter("id"))
    place = {image.id: k for k, image in enumerate(images)}
    column = {category.id: k for k, category in enumerate(categories)}
    kept = [
        item
        for item in objects
        if item.image_id in place and item.category_id in column and all(map(math.isfinite, item.bbox))
    ]
    kept.sort(key=lambda item: place[item.image_id])
    boxes = np.array([item.bbox for item in kept], dtype=np.float64).reshape(-1, 4)
    areas = np.array([item.area for item in kept], dtype=np.float64)  # None becomes NaN
    return GroundTruth(
        image_ids=np.array([image.id for image in images], dtype=np.int64),
        sizes_hw=np.array([(image.height, image.width) for image in images], dtype=np.int64),
        category_ids=tuple(category.id for category in categories),
        classes=tuple(category.name for category in categories),
        images=np.array([place[item.image_id] for item in kept], dtype=np.int64),
        categories=np.array([column[item.category_id] for item in kept], dtype=np.int64),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.array([int(item.iscrowd or 0) != 0 for item in kept], dtype=bool),
        segmentations=[item.segmentation for item in kept],
    )


def outlines_of(ground_truth: GroundTruth) -> Outlines | None:
    """The masks of the objects, or None when not one has any."""
    masks, missing = MaskFile(), np.zeros(len(ground_truth.images), dtype=bool)
    for k, value in enumerate(ground_truth.segmentations):
        size = ground_truth.sizes_hw[ground_truth.images[k]].tolist()
        counts = _run_lengths(value, size)
        missing[k] = counts is None
        counts = _filled_box(ground_truth.boxes[k], size) if counts is None else counts
        masks.add(counts, [len(counts)])
    if missing.all():
        return None
    return Outlines(masks, ground_truth.crowd | missing)


def _run_lengths(value: Any, size_hw: list[int]) -> bytes | None:
    """Compressed run lengths of a usable segmentation, None of another."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    found = normalize_segmentation(value, (size_hw[0], size_hw[1]))
    if isinstance(found, dict):
        return bytes(found["counts"])
    return _polygons([polygon.tolist() for polygon in found], size_hw) if found else None


def _polygons(polygons: list[list[float]], size_hw: list[int]) -> bytes:
    return bytes(coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))["counts"])


def _filled_box(xywh: np.ndarray, size_hw: list[int]) -> bytes:
    """Of what is inside the image: pycocotools walks along every pixel of an outline, however far it goes."""
    height, width = size_hw
    (x1, x2), (y1, y2) = (np.clip((xywh[k], xywh[k] + xywh[k + 2]), 0, (width, height)[k]).tolist() for k in (0, 1))
    return _polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], size_hw)
