"""Reading of a COCO annotation file into columns, with every structural fault named by file, key and id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from afictl.errors import UserError

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Annotations:
    """The columns of one annotation file, in file order; n images, m objects."""

    file: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: np.ndarray
    file_names: list[str]
    sizes_hw: np.ndarray
    """(n,2) int64."""
    ids: np.ndarray
    image_index: np.ndarray
    """(m,) int64, position of each object's image."""
    labels: np.ndarray
    """(m,) int64, 1..K in the order of ``classes``."""
    xywh: np.ndarray
    """(m,4) float64, as written in the file."""
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: list[Any]
    """As written in the file; None where absent."""


def find_files(data_dir: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split.

    Raises:
        UserError: unknown split, or a missing file or folder; names the paths that were looked for.
    """
    if split not in _SPLITS:
        raise UserError(f"split '{split}' does not exist; splits are {', '.join(_SPLITS)}")
    if not data_dir.is_dir():
        raise UserError(f"data folder {data_dir} does not exist")
    names = [f"instances_{split}2017.json", f"instances_{split}.json"]
    if split == "test":
        names += ["image_info_test-dev2017.json", "image_info_test2017.json"]
    file = _first(
        [data_dir / "annotations" / name for name in names], Path.is_file, f"{split} annotation file"
    )
    folders = [data_dir / f"{split}2017", data_dir / split]
    if "2017" not in file.name:
        folders.reverse()
    return file, _first(folders, Path.is_dir, f"{split} image folder")


def _first(paths: list[Path], exists: Callable[[Path], bool], what: str) -> Path:
    for path in paths:
        if exists(path):
            return path
    raise UserError(f"no {what}: looked for {' and '.join(map(str, paths))}")


def read_json(file: Path) -> dict[str, Any]:
    """The file's contents, with ``images``, ``annotations`` and ``categories`` as lists of dicts."""
    try:
        contents = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(contents, dict):
        raise UserError(
            f"{file}: holds a {type(contents).__name__}, not the mapping of a COCO annotation file"
        )
    if file.name.startswith("image_info"):  # COCO's test images come without annotations
        contents.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if key not in contents:
            raise UserError(f"{file}: key '{key}' is missing")
        records = contents[key]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(f"{file}: '{key}' must be a list of mappings")
    return contents


def read_annotations(file: Path) -> Annotations:
    """Read an annotation file.

    Raises:
        UserError: not JSON, a missing key, a value of the wrong kind, an unknown or duplicate id.
    """
    contents = read_json(file)
    categories = _Table(file, "categories", contents.pop("categories"))
    images = _Table(file, "images", contents.pop("images"))
    objects = _Table(file, "annotations", contents.pop("annotations"))
    if not categories.records:
        raise UserError(f"{file}: 'categories' is empty")
    names = dict(zip(categories.unique_ids(), categories.column("name", is_name), strict=True))
    category_ids = tuple(sorted(names))
    image_ids = images.unique_ids()
    sizes = np.array(
        [images.column("height", is_length), images.column("width", is_length)], dtype=np.int64
    ).T
    xywh = np.array(objects.column("bbox", is_box), dtype=np.float64).reshape(-1, 4)
    boxed = xywh[:, 2] * xywh[:, 3]
    return Annotations(
        file=file,
        classes=tuple(names[k] for k in category_ids),
        category_ids=category_ids,
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=images.column("file_name", is_name),
        sizes_hw=sizes,
        ids=np.array(objects.unique_ids(), dtype=np.int64),
        image_index=objects.positions("image_id", image_ids, "images"),
        labels=objects.positions("category_id", category_ids, "categories") + 1,
        xywh=xywh,
        areas=np.array(objects.optional("area", boxed.tolist(), is_number), dtype=np.float64),
        crowd=np.array(objects.optional("iscrowd", [0] * len(xywh), is_number), dtype=np.float64) != 0,
        segmentations=[record.get("segmentation") for record in objects.records],
    )


def is_id(value: Any) -> bool:
    """An id is a whole number of at most 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def is_name(value: Any) -> bool:
    """A name is a text that is not empty."""
    return isinstance(value, str) and value != ""


def is_number(value: Any) -> bool:
    """Whole or not, and not a truth value or a text."""
    return isinstance(value, int | float)


def is_length(value: Any) -> bool:
    """The side of an image: a whole number of pixels, at least one."""
    return isinstance(value, int | float) and value >= 1 and value == int(value)


def is_box(value: Any) -> bool:
    """Four numbers: x, y, width, height."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


class _Table:
    """The list of records under one key of the file, read column by column."""

    def __init__(self, file: Path, key: str, records: list[dict[str, Any]]) -> None:
        self.file, self.key, self.records = file, key, records

    def column(self, name: str, is_valid: Callable[[Any], bool]) -> list[Any]:
        for k, record in enumerate(self.records):
            if name not in record:
                raise UserError(f"{self.where(k)}: key '{name}' is missing")
        return self._validated([record[name] for record in self.records], name, is_valid)

    def optional(self, name: str, default: Sequence[Any], is_valid: Callable[[Any], bool]) -> list[Any]:
        values = [record.get(name, other) for record, other in zip(self.records, default, strict=True)]
        return self._validated(values, name, is_valid)

    def unique_ids(self) -> list[int]:
        ids = self.column("id", is_id)
        seen: set[int] = set()
        for k, value in enumerate(ids):
            if value in seen:
                raise UserError(
                    f"{self.where(k)}: id {value} occurs twice; ids must be unique in '{self.key}'"
                )
            seen.add(value)
        return ids

    def positions(self, name: str, ids: Iterable[int], target: str) -> np.ndarray:
        """Where each record's ``name`` stands among ``ids``."""
        position = {value: k for k, value in enumerate(ids)}
        values = self.column(name, is_id)
        for k, value in enumerate(values):
            if value not in position:
                raise UserError(f"{self.where(k)}: {name} {value} is not in '{target}'")
        return np.array([position[value] for value in values], dtype=np.int64)

    def where(self, k: int) -> str:
        return f"{self.file}: {self.key}[{k}] (id {self.records[k].get('id', 'missing')})"

    def _validated(self, values: list[Any], name: str, is_valid: Callable[[Any], bool]) -> list[Any]:
        for k, value in enumerate(values):
            if not is_valid(value):
                raise UserError(f"{self.where(k)}: '{name}' is {value!r:.60}, not {_EXPECTED[is_valid]}")
        return values


_EXPECTED: dict[Callable[[Any], bool], str] = {
    is_id: "a whole number",
    is_name: "a text",
    is_number: "a number",
    is_length: "a number of pixels",
    is_box: "four numbers x, y, width, height",
}
