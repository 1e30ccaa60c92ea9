"""Reading of a COCO annotation file into columns, with every structural fault named by file, key and id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from afictl.data.columns import Annotations
from afictl.data.folders import read_instances
from afictl.data.formats.coco_fast import read_fast
from afictl.errors import UserError


def read_annotations(file: Path) -> Annotations:
    """Read an annotation file.

    Raises:
        UserError: not JSON, a missing key, a value of the wrong kind, an unknown or duplicate id.
    """
    return read_fast(file) or read_carefully(file)


def read_carefully(file: Path) -> Annotations:
    """Read record by record with the standard library, which is slow, and name the first fault.

    Raises:
        UserError: see ``read_annotations``.
    """
    contents = read_instances(file)
    for key, fields in FIELDS.items():
        check_records(file, key, contents[key], fields)
    categories, images, objects = contents["categories"], contents["images"], contents["annotations"]
    if not categories or not images:
        raise UserError(f"{file}: '{'images' if categories else 'categories'}' is empty")
    names = {category["id"]: category["name"] for category in categories}
    for name, ids in ids_by_repeated(names).items():
        raise UserError(f"{file}: the categories of ids {ids} are all called '{name}'; give each its own name")
    image_ids = [image["id"] for image in images]
    xywh = np.array([record["bbox"] for record in objects], dtype=np.float64).reshape(-1, 4)
    areas = np.array([record.get("area") for record in objects], dtype=np.float64)  # None becomes NaN
    return Annotations(
        file=file,
        classes=tuple(names[k] for k in sorted(names)),
        category_ids=tuple(sorted(names)),
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=[image["file_name"] for image in images],
        sizes_hw=np.array([(image["height"], image["width"]) for image in images], dtype=np.int64),
        ids=np.array([record["id"] for record in objects], dtype=np.int64),
        image_index=_positions(file, objects, "image_id", image_ids),
        labels=_positions(file, objects, "category_id", sorted(names)) + 1,
        xywh=xywh,
        areas=np.where(np.isnan(areas), xywh[:, 2] * xywh[:, 3], areas),
        crowd=np.array([bool(record.get("iscrowd")) for record in objects], dtype=bool),
        segmentations=[record.get("segmentation") for record in objects],
    )


class Field(NamedTuple):
    """What the value of a key must be."""

    expected: str
    is_valid: Callable[[Any], bool]
    optional: bool = False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_length(value: Any) -> bool:
    return _is_number(value) and 1 <= value < 2**31 and value == int(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_ID = Field("a whole number", lambda value: type(value) is int and abs(value) < 2**63)
_NAME = Field("a text", lambda value: isinstance(value, str) and value != "")
_LENGTH = Field("a number of pixels", _is_length)
_BOX = Field("four numbers x, y, width, height", _is_box)
_NUMBER = Field("a number", _is_number, optional=True)

FIELDS = {
    "categories": {"id": _ID, "name": _NAME},
    "images": {"id": _ID, "file_name": _NAME, "height": _LENGTH, "width": _LENGTH},
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": _BOX,
        "area": _NUMBER,
        "iscrowd": _NUMBER,
    },
}
"""The keys that are read from the records of each list of the file."""


def record_fault(record: dict[str, Any], fields: dict[str, Field]) -> str | None:
    """What is wrong with a record, or None."""
    for name, (expected, is_valid, optional) in fields.items():
        value = record.get(name)
        if value is None and not optional and name not in record:
            return f"key '{name}' is missing"
        if not (value is None and optional) and not is_valid(value):
            return f"'{name}' is {value!r:.60}, not {expected}"
    return None


def check_records(file: Path, key: str, records: list[dict[str, Any]], fields: dict[str, Field]) -> None:
    """Raise ``UserError`` at the first record that lacks what it must hold, or whose id occurs before."""
    seen: set[int] = set()
    for k, record in enumerate(records):
        fault = record_fault(record, fields)
        if not fault and record["id"] in seen:
            fault = f"the id occurs twice; ids must be unique in '{key}'"
        if fault:
            raise UserError(f"{file}: {key}[{k}] (id {record.get('id', 'missing')}): {fault}")
        seen.add(record["id"])


def _positions(file: Path, objects: list[dict[str, Any]], key: str, ids: list[int]) -> np.ndarray:
    """Where each object's ``key`` stands among ``ids``, int64 (m,)."""
    position = {value: k for k, value in enumerate(ids)}
    for record in objects:
        if record[key] not in position:
            raise UserError(
                f"{file}: annotation {record['id']}: {key} {record[key]} does not exist; "
                "'afictl data check' lists every such object"
            )
    return np.array([position[record[key]] for record in objects], dtype=np.int64)


def ids_by_repeated(names: Mapping[int, str]) -> dict[str, list[int]]:
    """The ids of each name that several of them have."""
    ids: dict[str, list[int]] = {}
    for category_id, name in names.items():
        ids.setdefault(name, []).append(category_id)
    return {name: mine for name, mine in ids.items() if len(mine) > 1}
