"""Record by record reading of COCO annotation files, with every structural fault named by file, key and id."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from afictl.data.annotations import Annotations
from afictl.data.formats.coco_values import (
    CLASS_NAME,
    is_class_name,
    is_flag,
    is_id,
    is_name,
    is_number,
    parse_flag,
    shorten,
)
from afictl.errors import UserError, describe_type
from afictl.json_files import parse_json, read_json_text

Record: TypeAlias = dict[str, Any]
Contents: TypeAlias = dict[str, list[Record]]
"""An annotation file with ``images``, ``annotations`` and ``categories``."""


class Field(NamedTuple):
    """Type and range of the value of a key."""

    expected: str
    is_valid: Callable[[object], bool]
    optional: bool = False


def _is_length(value: object) -> bool:
    return is_number(value) and 1 <= value < 2**31 and value == int(value)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


_ID = Field("a whole number", is_id)
_FILE_NAME = Field("a text that is not empty", is_name)
_CLASS_NAME = Field(CLASS_NAME, is_class_name)
_LENGTH = Field("a number of pixels", _is_length)
_BOX = Field("four numbers x, y, width, height", _is_box)
NUMBER = Field("a number", is_number)
_OPTIONAL_NUMBER = NUMBER._replace(optional=True)
_FLAG = Field("0 or 1", is_flag, optional=True)

FIELDS = {
    "categories": {"id": _ID, "name": _CLASS_NAME},
    "images": {"id": _ID, "file_name": _FILE_NAME, "height": _LENGTH, "width": _LENGTH},
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": _BOX,
        "area": _OPTIONAL_NUMBER,
        "iscrowd": _FLAG,
        "ignore": _FLAG,
    },
}
"""The keys that are read from the records of each list of the file."""

_SECTIONS = tuple(f'"{key}"'.encode() for key in FIELDS)

_SCORED_FIELDS = {name: field for name, field in FIELDS["annotations"].items() if name not in ("id", "ignore")}


def read_carefully(file: Path, omitted: Set[int] = frozenset()) -> Annotations:
    """Read every record with the standard library, which is slow.

    Args:
        file: the annotation file.
        omitted: ids of categories to leave out, which no object has.

    Raises:
        UserError: the first fault; see ``formats.coco.read_annotations``.
    """
    contents = without_categories(read_instances(file), omitted)
    for key, fields in FIELDS.items():
        check_records(file, key, contents[key], fields)
    for key in ("images", "categories"):
        if not contents[key]:
            raise UserError(f"{file}: '{key}' is empty")
    names = {category["id"]: category["name"] for category in contents["categories"]}
    for name, ids in ids_by_repeated(names).items():
        raise UserError(f"{file}: the categories of ids {ids} are all called '{name}'; give each its own name")
    for key, records in (("image_id", contents["images"]), ("category_id", contents["categories"])):
        _require_known(file, key, contents["annotations"], {record["id"] for record in records})
    return record_columns(contents, [record["id"] for record in contents["annotations"]])


def read_leniently(file: Path) -> Annotations:
    """Read what can be scored; objects with a fault, or of an unknown image or category, are left out.

    Raises:
        UserError: not JSON, no images, or a fault in the images or categories.
    """
    contents = read_instances(file, needs_annotations=False)
    for key in ("images", "categories"):
        check_records(file, key, contents[key], FIELDS[key])
    if not contents["images"]:
        raise UserError(f"annotation file {file}: no images to evaluate")
    images, categories = ({record["id"] for record in contents[key]} for key in ("images", "categories"))
    objects = [
        record
        for record in contents["annotations"]
        if record_fault(record, _SCORED_FIELDS) is None
        and record["image_id"] in images
        and record["category_id"] in categories
    ]
    return record_columns({**contents, "annotations": objects}, list(range(len(objects))))


def without_categories(contents: Contents, ids: Set[int]) -> Contents:
    """The same records without the categories of these ids."""
    categories = [record for record in contents["categories"] if not (is_id(record.get("id")) and record["id"] in ids)]
    return {**contents, "categories": categories}


def record_columns(contents: Contents, ids: list[int]) -> Annotations:
    """The columns of valid records; ``ids`` are those of the objects."""
    images, objects = contents["images"], contents["annotations"]
    names = {category["id"]: category["name"] for category in contents["categories"]}
    image_positions = {int(image["id"]): k for k, image in enumerate(images)}
    label_of = {int(category_id): k for k, category_id in enumerate(sorted(names), start=1)}
    return Annotations(
        classes=tuple(names[k] for k in label_of),
        category_ids=tuple(label_of),
        image_ids=np.array(list(image_positions), dtype=np.int64),
        file_names=[image["file_name"] for image in images],
        sizes_hw=np.array([(image["height"], image["width"]) for image in images], dtype=np.int64),
        ids=np.array(ids, dtype=np.int64),
        image_index=np.array([image_positions[record["image_id"]] for record in objects], dtype=np.int64),
        labels=np.array([label_of[record["category_id"]] for record in objects], dtype=np.int64),
        xywh=np.array([record["bbox"] for record in objects], dtype=np.float64).reshape(-1, 4),
        areas=np.array([record.get("area") for record in objects], dtype=np.float64),  # None becomes NaN
        crowd=np.array([parse_flag(record.get("iscrowd")) for record in objects], dtype=bool),
        ignore=np.array([parse_flag(record.get("ignore")) for record in objects], dtype=bool),
        segmentations=[record.get("segmentation") for record in objects],
    )


def record_fault(record: Record, fields: dict[str, Field]) -> str | None:
    """The first fault of a record, or None."""
    for name, (expected, is_valid, optional) in fields.items():
        value = record.get(name)
        if value is None and not optional and name not in record:
            return f"key '{name}' is missing"
        if not (value is None and optional) and not is_valid(value):
            return f"'{name}' is {shorten(value)}, not {expected}"
    return None


def check_records(file: Path, key: str, records: list[Record], fields: dict[str, Field]) -> None:
    """Check the fields of all records of a list, and that no id occurs twice.

    Raises:
        UserError: the first fault.
    """
    earlier_ids: set[int] = set()
    for k, record in enumerate(records):
        fault = record_fault(record, fields)
        if not fault and record["id"] in earlier_ids:
            fault = f"the id occurs twice; ids must be unique in '{key}'"
        if fault:
            raise UserError(
                f"{file}: {key}[{k}] (id {shorten(record['id']) if 'id' in record else 'missing'}): {fault}"
            )
        earlier_ids.add(record["id"])


def _require_known(file: Path, key: str, objects: list[Record], ids: set[int]) -> None:
    for record in objects:
        if record[key] not in ids:
            raise UserError(
                f"{file}: annotation {record['id']}: {key} {record[key]} does not exist; "
                "'afictl data check' lists every such object"
            )


def ids_by_repeated(names: Mapping[int, str]) -> dict[str, list[int]]:
    """The ids of each name that occurs more than once."""
    ids: dict[str, list[int]] = {}
    for category_id, name in names.items():
        ids.setdefault(name, []).append(category_id)
    return {name: ids_of_name for name, ids_of_name in ids.items() if len(ids_of_name) > 1}


def write_coco(path: Path, contents: Contents) -> None:
    """Write an annotation file.

    Raises:
        UserError: a value of an unknown key is nested too deep for JSON.
    """
    try:
        text = json.dumps(contents)
    except RecursionError:
        raise UserError(f"{path.name}: a value is nested too deep to be written again; remove it") from None
    path.write_text(text, encoding="utf-8")


def may_repeat_sections(text: bytes) -> bool:
    """Whether a section may occur twice in an annotation file, of which JSON readers take the last.

    A quick search that precedes an exact one: it also finds the names in other places.
    """
    return any(text.find(name) != text.rfind(name) for name in _SECTIONS)


def read_instances(file: Path, *, needs_annotations: bool = True) -> Contents:
    """Parse a COCO annotation file and check that it has its three lists of mappings.

    Args:
        file: the annotation file.
        needs_annotations: whether the key ``annotations`` is required; COCO's lists of test images lack it.

    Raises:
        UserError: not JSON, a missing key, something else than lists of mappings.
    """
    text = read_json_text(file, "annotation file")
    contents = parse_json(text, f"annotation file {file}", unique_keys=may_repeat_sections(text))
    if not isinstance(contents, dict):
        raise UserError(f"{file}: holds {describe_type(contents)}, not the mapping of a COCO annotation file")
    if not needs_annotations or file.name.startswith("image_info"):
        contents.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if key not in contents:
            raise UserError(f"{file}: key '{key}' is missing")
        records = contents[key]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(f"{file}: '{key}' must be a list of mappings")
    return contents
