"""The check of a data set before any training: everything that the annotations get wrong, by file and id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from afictl.data.check_images import check_images
from afictl.data.check_report import Place, SplitReport
from afictl.data.check_splits import compare_with_train
from afictl.data.dataset import MIN_SIDE_PX, clip_boxes, drop_reasons
from afictl.data.folders import SPLITS, annotation_names, find_files, require_data_folder
from afictl.data.formats.coco_records import FIELDS, ids_by_repeated, read_instances, record_fault
from afictl.data.segmentation import normalize_segmentation
from afictl.errors import UserError
from afictl.progress import ProgressCallback

Record = dict[str, Any]
_FATE_RULES = {1: "crowd", 2: "box-without-area", 3: "box-outside"}


def splits_to_check(data_dir: Path, split: str) -> list[str]:
    """The splits meant by ``split``; ``all`` is train, val, and test where there is one.

    Raises:
        UserError: unknown split, or no such folder.
    """
    if split not in (*SPLITS, "all"):
        raise UserError(f"--split {split}: choose {', '.join(SPLITS)} or all")
    require_data_folder(data_dir)
    if split != "all":
        return [split]
    has_test = any((data_dir / "annotations" / name).is_file() for name in annotation_names("test"))
    return ["train", "val", *(["test"] if has_test else [])]


def check_split(
    data_dir: str | Path, split: str, *, images: bool = True, progress: ProgressCallback | None = None
) -> SplitReport:
    """Check one split; what is wrong with it is reported, not raised.

    Args:
        data_dir: a data set in COCO layout.
        split: ``"train"``, ``"val"`` or ``"test"``; the last two are also held against the first.
        images: also decode every image file, in parallel.
        progress: called with (images done, images in all).
    """
    report = SplitReport(split)
    try:
        annotation_file, image_dir = find_files(Path(data_dir), split)
        report.annotation_file = str(annotation_file)
        contents = read_instances(annotation_file)
    except UserError as error:
        report.add("annotation-file", Place(detail=str(error)))
        return report
    known_images = check_annotations(contents, report)
    if split != "train":
        compare_with_train(Path(data_dir), contents, image_dir, report)
    if images:
        check_images(image_dir, [(r["file_name"], _size_hw(r)) for r in known_images], report, progress)
    return report


def check_annotations(contents: dict[str, Any], report: SplitReport) -> list[Record]:
    """Note every fault of the annotations in ``report``; returns the image records that are sound."""
    report.images, report.objects = len(contents["images"]), len(contents["annotations"])
    for key in ("images", "categories"):
        if not contents[key]:
            report.add("annotation-file", Place(report.annotation_file, detail=f"'{key}' is empty"))
    categories = {record["id"]: record["name"] for record in _sound(contents, "categories", "category", report)}
    images = {record["id"]: record for record in _sound(contents, "images", "image", report)}
    for name, ids in ids_by_repeated({k: record["file_name"] for k, record in images.items()}).items():
        report.add("duplicate-file", Place(name, detail=f"image ids {', '.join(map(str, ids))}"))
    objects = [
        record
        for record in _sound(contents, "annotations", "annotation", report)
        if _points_to(record, "category", categories, images, report)
        if _points_to(record, "image", images, images, report)
    ]
    _check_categories(categories, objects, report)
    usable = _check_boxes(objects, images, report)
    _check_masks(objects, images, report)
    _check_use(images, categories, objects, usable, report)
    return list(images.values())


def _sound(contents: dict[str, Any], key: str, kind: str, report: SplitReport) -> Iterator[Record]:
    """The records under ``key`` that hold what they must and have an id of their own."""
    seen = set()
    for k, record in enumerate(contents[key]):
        fault = record_fault(record, FIELDS[key])
        identity = record.get("id")
        if not fault and identity not in seen:
            seen.add(identity)
            yield record
            continue
        rule = "malformed-record" if fault else f"duplicate-{kind}"
        if kind == "annotation":
            place = Place(None, identity, f"{key}[{k}] of image {record.get('image_id')}")
        else:
            place = Place(record.get("file_name"), None, f"{key}[{k}] id {identity}")
        report.add(rule, place._replace(detail=f"{place.detail}: {fault}") if fault else place)


def _points_to(
    record: Record, kind: str, known: dict[int, Any], images: dict[int, Record], report: SplitReport
) -> bool:
    target = record[f"{kind}_id"]
    if target not in known:
        file = images.get(record["image_id"], {}).get("file_name")
        report.add(f"unknown-{kind}", Place(file, record["id"], f"{kind}_id {target}"))
    return target in known


def _check_categories(categories: dict[int, str], objects: list[Record], report: SplitReport) -> None:
    for name, same in ids_by_repeated(categories).items():
        report.add("duplicate-name", Place(detail=f"{name} (ids {', '.join(map(str, same))})"))
    ids = sorted(categories)
    if ids and ids != list(range(1, len(ids) + 1)):
        detail = f"{len(ids)} categories with ids {ids[0]} to {ids[-1]}"
        report.add("category-gaps", Place(detail=detail))
    used = {record["category_id"] for record in objects}
    for category_id in ids:
        if category_id not in used:
            report.add("category-unused", Place(detail=f"{categories[category_id]} (id {category_id})"))


def _check_boxes(objects: list[Record], images: dict[int, Record], report: SplitReport) -> np.ndarray:
    """Note crowd objects and boxes that training leaves out or cuts; returns which it uses, bool (m,)."""
    sizes = np.array([_size_hw(images[r["image_id"]]) for r in objects], dtype=np.int64).reshape(-1, 2)
    xywh = np.array([record["bbox"] for record in objects], dtype=np.float64).reshape(-1, 4)
    clipped = clip_boxes(xywh, sizes)
    fate = drop_reasons(xywh, clipped, np.array([bool(record.get("iscrowd")) for record in objects], dtype=bool))
    corners = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
    # Coordinates of two decimals pass the edge by a rounding; that much is no finding.
    cut = (np.abs(corners - clipped).max(axis=1, initial=0) > MIN_SIDE_PX + 1e-3) & (fate == 0)
    for k in np.flatnonzero((fate > 0) | cut).tolist():
        record = objects[k]
        image = images[record["image_id"]]
        detail = f"bbox {record['bbox']} in {image['width']}x{image['height']}"
        place = Place(image["file_name"], record["id"], "" if fate[k] == 1 else detail)
        report.add(_FATE_RULES.get(int(fate[k]), "box-partly-outside"), place)
    return np.asarray(fate == 0)


def _check_masks(objects: list[Record], images: dict[int, Record], report: SplitReport) -> None:
    kinds = [_mask_kind(record.get("segmentation"), _size_hw(images[record["image_id"]])) for record in objects]
    report.masks = dict(Counter(kinds))
    trained = [kind for kind, record in zip(kinds, objects, strict=True) if not record.get("iscrowd")]
    some = "polygons" in trained or "RLE" in trained
    if objects and not some:
        report.add("no-masks", Place(detail=f"{len(objects)} objects"))
    for kind, record in zip(kinds, objects, strict=True):
        place = Place(images[record["image_id"]]["file_name"], record["id"])
        if kind == "malformed":
            report.add("mask-malformed", place)
        elif kind == "absent" and some and not record.get("iscrowd"):
            report.add("mask-missing", place)


def _mask_kind(value: Any, size_hw: tuple[int, int]) -> str:
    if value is None or value == [] or value == {}:
        return "absent"
    if normalize_segmentation(value, size_hw) is None:
        return "malformed"
    return "polygons" if isinstance(value, list) else "RLE"


def _check_use(
    images: dict[int, Record],
    categories: dict[int, str],
    objects: list[Record],
    usable: np.ndarray,
    report: SplitReport,
) -> None:
    """Note what training uses, and the images that it therefore leaves out."""
    kept = [record for record, use in zip(objects, usable.tolist(), strict=True) if use]
    counts = Counter(record["category_id"] for record in kept)
    report.histogram = {categories[k]: counts[k] for k in sorted(categories)}
    annotated, used = ({record["image_id"] for record in records} for records in (objects, kept))
    for image_id, image in images.items():
        if image_id not in annotated:
            report.add("empty-image", Place(image["file_name"]))
        elif image_id not in used:
            report.add("image-without-usable", Place(image["file_name"]))
    report.usable_objects, report.usable_images = len(kept), len(used)
    if not kept and report.split == "train":
        report.add("no-usable-object", Place(report.annotation_file))


def _size_hw(image: Record) -> tuple[int, int]:
    return int(image["height"]), int(image["width"])
