"""Check of a dataset before training: every fault of the annotations, by file and id."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from afictl.data.check_images import check_image_files
from afictl.data.check_masks import boxes_of, check_masks
from afictl.data.check_report import Location, SplitReport
from afictl.data.check_splits import compare_with_train
from afictl.data.dataset import MIN_SIDE_PX, clip_boxes, drop_reasons
from afictl.data.folders import SPLITS
from afictl.data.formats.coco_records import FIELDS, Contents, Record, ids_by_repeated, record_fault
from afictl.data.formats.coco_values import is_id, is_name, parse_flag, shorten
from afictl.data.layouts import find_layout, find_split
from afictl.errors import UserError
from afictl.garbage_collection import paused_garbage_collection
from afictl.progress import ProgressCallback

_MAX_DETECTIONS = 100
"""``detector.max_detections`` of most presets, and the detections of a class on an image that COCO's metrics count."""
_DROP_RULES = {1: "crowd", 2: "box-without-area", 3: "box-outside", 4: "ignore"}
_FLAGS = ("iscrowd", "ignore")


def splits_to_check(data_dir: Path, split: str) -> list[str]:
    """The splits that ``split`` selects; ``all`` is train, val, and test if it exists.

    Raises:
        UserError: unknown split, or no such folder.
    """
    if split not in (*SPLITS, "all"):
        raise UserError(f"--split {split}: choose {', '.join(SPLITS)} or all")
    layout = find_layout(data_dir)
    if split != "all":
        return [split]
    return ["train", "val", *(["test"] if "test" in layout.splits else [])]


def check_split(
    data_dir: str | Path, split: str, *, images: bool = True, progress: ProgressCallback | None = None
) -> SplitReport:
    """Check one split; faults are reported, not raised.

    Args:
        data_dir: a dataset of any format.
        split: ``"train"``, ``"val"`` or ``"test"``; the last two are also compared with the first.
        images: also decode every image file, in parallel.
        progress: called with the number of images done and of all images.
    """
    report = SplitReport(split)
    try:
        files = find_split(Path(data_dir), split)
        report.annotation_file, image_dir = str(files.annotation_file), files.image_dir
        with paused_garbage_collection():
            contents = files.read_records()
            images_to_read = check_annotations(contents, report)
            if split != "train":
                compare_with_train(Path(data_dir), contents, image_dir, report)
    except UserError as error:
        report.add("annotation-file", Location(detail=str(error)))
        return report
    if images:
        check_image_files(image_dir, [(r["file_name"], _size_hw(r)) for r in images_to_read], report, progress)
    return report


def check_annotations(contents: Contents, report: SplitReport) -> list[Record]:
    """Add every fault of the annotations to ``report``; return the image records without fault."""
    report.images, report.objects = len(contents["images"]), len(contents["annotations"])
    for key in ("images", "categories"):
        if not contents[key]:
            report.add("annotation-file", Location(report.annotation_file, detail=f"'{key}' is empty"))
    categories = _categories(contents, report)
    images = {record["id"]: record for record in _valid_records(contents, "images", "image", report)}
    image_ids = _ids(contents["images"])
    for name, ids in ids_by_repeated({k: record["file_name"] for k, record in images.items()}).items():
        report.add("duplicate-file", Location(name, detail=f"image ids {', '.join(map(str, ids))}"))
    objects = [
        record
        for record in _valid_records(contents, "annotations", "annotation", report)
        if _check_reference(record, "category", categories, images, report)
        if _check_reference(record, "image", image_ids, images, report)
        if record["image_id"] in images
    ]
    faulty = _records_without(contents["annotations"], objects)
    _check_categories(categories, [*objects, *faulty], report)
    _check_optional_values(objects, images, report)
    usable = _check_boxes(objects, images, report)
    _check_duplicates(objects, images, report)
    check_masks(objects, images, usable, report)
    _check_use(images, categories, objects, usable, report)
    _check_absent_objects(images, objects, usable, faulty, report)
    return list(images.values())


def _categories(contents: Contents, report: SplitReport) -> dict[int, str]:
    """Name by id; one whose name alone is at fault is called by its id, so that its objects are checked."""
    names = {record["id"]: record["name"] for record in _valid_records(contents, "categories", "category", report)}
    return {k: f"id {k}" for k in _ids(contents["categories"])} | names


def _ids(records: list[Record], key: str = "id") -> set[int]:
    """The valid ids under ``key``, also of records with a fault in other keys."""
    return {record[key] for record in records if is_id(record.get(key))}


def _records_without(records: list[Record], excluded_records: list[Record]) -> list[Record]:
    """The ``records`` that are none of ``excluded_records``."""
    if len(records) == len(excluded_records):
        return []
    identities = set(map(id, excluded_records))
    return [record for record in records if id(record) not in identities]


def _valid_records(contents: Contents, key: str, kind: str, report: SplitReport) -> Iterator[Record]:
    """The records under ``key`` with valid fields and a unique id; add the faults of the others."""
    earlier_ids = set()
    for k, record in enumerate(contents[key]):
        fault = record_fault(record, FIELDS[key])
        record_id = record.get("id")
        if not fault and record_id not in earlier_ids:
            earlier_ids.add(record_id)
            yield record
            continue
        rule = "malformed-record" if fault else f"duplicate-{kind}"
        shown_id = record_id if is_id(record_id) else shorten(record_id)
        if kind == "annotation":
            location = Location(None, shown_id, f"{key}[{k}] of image {shorten(record.get('image_id'))}")
        else:
            name = record.get("file_name")
            location = Location(name if is_name(name) else None, None, f"{key}[{k}] id {shown_id}")
        report.add(rule, location._replace(detail=f"{location.detail}: {fault}") if fault else location)


def _check_reference(
    record: Record, kind: str, ids: Collection[int], images: dict[int, Record], report: SplitReport
) -> bool:
    """Whether the image or category of an object is among ``ids``; add a finding if not, unless there are none."""
    target = record[f"{kind}_id"]
    if ids and target not in ids:
        file = images.get(record["image_id"], {}).get("file_name")
        report.add(f"unknown-{kind}", Location(file, record["id"], f"{kind}_id {target}"))
    return target in ids


def _check_categories(categories: dict[int, str], objects: list[Record], report: SplitReport) -> None:
    for name, repeated_ids in ids_by_repeated(categories).items():
        report.add("duplicate-name", Location(detail=f"{name} (ids {', '.join(map(str, repeated_ids))})"))
    ids = sorted(categories)
    if ids and ids != list(range(int(ids[0]), int(ids[0]) + len(ids))):
        detail = f"{len(ids)} categories with ids {ids[0]} to {ids[-1]}"
        report.add("category-gaps", Location(detail=detail))
    used_ids = _ids(objects, "category_id")
    for category_id in ids:
        if category_id not in used_ids:
            report.add("category-unused", Location(detail=f"{categories[category_id]} (id {category_id})"))


def _check_optional_values(objects: list[Record], images: dict[int, Record], report: SplitReport) -> None:
    """Add flags that are written as text or NaN, flags that COCO does not have, and areas that none can be."""
    for record in objects:
        location = Location(images[record["image_id"]]["file_name"], record["id"])
        for flag in _FLAGS:
            value = record.get(flag)
            if isinstance(value, str) or value != value:  # NaN differs from itself
                report.add("unusual-flag", location._replace(detail=f"{flag} {shorten(value)}"))
        if parse_flag(record.get("difficult")):
            report.add("difficult", location)
        area = record.get("area")
        if area is not None and (area < 0 or math.isinf(area)):
            report.add("area-out-of-range", location._replace(detail=f"area {shorten(area)}"))


def _check_boxes(objects: list[Record], images: dict[int, Record], report: SplitReport) -> np.ndarray:
    """Add crowd objects and boxes that training leaves out or clips; return which it uses, bool (m,)."""
    sizes = np.array([_size_hw(images[r["image_id"]]) for r in objects], dtype=np.int64).reshape(-1, 2)
    xywh = boxes_of(objects)
    clipped = clip_boxes(xywh, sizes)
    crowd, ignore = (np.array([parse_flag(r.get(flag)) for r in objects], dtype=bool) for flag in _FLAGS)
    dropped = drop_reasons(xywh, clipped, crowd, ignore)
    corners = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
    # Coordinates rounded to two decimals may exceed the edge by that much.
    is_clipped = (np.abs(corners - clipped).max(axis=1, initial=0) > MIN_SIDE_PX + 1e-3) & (dropped == 0)
    for k in np.flatnonzero((dropped > 0) | is_clipped).tolist():
        record = objects[k]
        image = images[record["image_id"]]
        detail = f"bbox {record['bbox']} in {image['width']}x{image['height']}"
        location = Location(image["file_name"], record["id"], "" if dropped[k] in (1, 4) else detail)
        report.add(_DROP_RULES.get(int(dropped[k]), "box-partly-outside"), location)
    return np.asarray(dropped == 0)


def _check_duplicates(objects: list[Record], images: dict[int, Record], report: SplitReport) -> None:
    """Add objects that have image, category and box of an earlier one; crowd regions may be drawn in parts."""
    first_ids: dict[tuple[object, ...], object] = {}
    for record in objects:
        if parse_flag(record.get("iscrowd")):
            continue
        first_id = first_ids.setdefault((record["image_id"], record["category_id"], *record["bbox"]), record["id"])
        if first_id != record["id"]:
            location = Location(images[record["image_id"]]["file_name"], record["id"], f"same as annotation {first_id}")
            report.add("duplicate-object", location)


def _check_use(
    images: dict[int, Record],
    categories: dict[int, str],
    objects: list[Record],
    usable: np.ndarray,
    report: SplitReport,
) -> None:
    """Count what training uses, and add the images with more objects than a detector finds."""
    used_objects = [record for record, use in zip(objects, usable.tolist(), strict=True) if use]
    counts = Counter(record["category_id"] for record in used_objects)
    report.histogram = {categories[k]: counts[k] for k in sorted(categories)}
    report.usable_objects, report.usable_images = len(used_objects), len(_ids(used_objects, "image_id"))
    for image_id, number in Counter(record["image_id"] for record in objects).items():
        if number > _MAX_DETECTIONS:
            report.add("crowded-image", Location(images[image_id]["file_name"], detail=f"{number} objects"))


def _check_absent_objects(
    images: dict[int, Record],
    objects: list[Record],
    usable: np.ndarray,
    faulty: list[Record],
    report: SplitReport,
) -> None:
    """Add images that training leaves out, and a file without any object to train on.

    Whether an object with a fault of its own, one of ``faulty``, would be used is not known.
    """
    faulty_ids, annotated_ids = _ids(faulty, "image_id"), _ids(objects, "image_id")
    used_ids = {record["image_id"] for record, use in zip(objects, usable.tolist(), strict=True) if use}
    for image_id, image in images.items():
        if image_id not in used_ids | faulty_ids:
            report.add(
                "image-without-usable" if image_id in annotated_ids else "empty-image", Location(image["file_name"])
            )
    if not used_ids and not faulty and images and report.split == "train":
        report.add("no-usable-object", Location(report.annotation_file))


def _size_hw(image: Record) -> tuple[int, int]:
    return int(image["height"]), int(image["width"])
