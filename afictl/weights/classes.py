"""Class names and category ids for detectors whose checkpoint has none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from afictl.data.formats.coco_values import CLASS_NAME, is_class_name, shorten
from afictl.errors import UserError
from afictl.json_files import read_json
from afictl.name_or_path import Names, parse_name

_MAX_CLASSES = 100_000
_FILE_SUFFIXES = (".json", ".txt", ".yaml", ".yml")

COCO_IDS = 90
"""COCO's highest category id."""


class Classes(NamedTuple):
    """Classes of a detector."""

    names: list[str]
    """In label order; of an annotation file, in the order of its ids."""
    category_ids: list[int]
    """Of COCO, in the order of ``names``."""
    are_annotations: bool = False
    """Whether they are those of an annotation file, which does not say which label is which class."""

    def in_order_of(self, names: Sequence[str]) -> Classes:
        """The same classes in the order of ``names``."""
        ids = dict(zip(self.names, self.category_ids, strict=True))
        return self._replace(names=list(names), category_ids=[ids[name] for name in names])


def default_classes(count: int) -> Classes:
    """COCO's classes for a count of 80, else ``class_1``, ``class_2``, ...

    Raises:
        UserError: more than 100,000 classes.
    """
    if count > _MAX_CLASSES:
        raise UserError(f"a class layer of {count:,} classes; at most {_MAX_CLASSES:,} are supported")
    if count != 80:
        return Classes([f"class_{i}" for i in range(1, count + 1)], list(range(1, count + 1)))
    used = {i: name for i, name in enumerate(coco_category_names(), start=1) if name != "N/A"}
    return Classes(list(used.values()), list(used))


def coco_category_names() -> list[str]:
    """Names of COCO's category ids 1 to 90, N/A for unused ones: the labels of torchvision's COCO models."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    return list(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])


def are_assumed(names: Sequence[str]) -> bool:
    """Whether ``names`` are those that a detector of another project gets whose file has none."""
    return list(names) in (default_classes(len(names)).names, coco_category_names())


def read_classes(text: str) -> Classes:
    """Parse the value of ``--classes``: comma-separated names, or a JSON file.

    A value with a file suffix, or with a slash and no comma, is a file; any other is names, perhaps after ``names:``.
    A file contains a list of names in label order, or is a COCO annotation file, whose categories are ordered by id, as
    detectron2 and afictl number them.

    Raises:
        UserError: no such file, names that are also an existing file, no classes, or a repeated name.
    """
    if text.lower().endswith(_FILE_SUFFIXES) or (set(text) & {"/", "\\"} and "," not in text):
        names, ids, are_annotations = _from_file(Path(text))
    else:
        value = text.removeprefix("names:")
        if os.path.isfile(text):  # a folder is no list of classes
            parse_name(text, Names([value], "names", "class"), "--classes ")
        names, ids, are_annotations = [*map(str.strip, value.split(","))], [], False
    for name in names:
        if not is_class_name(name):
            raise UserError(f"--classes {text}: every class needs a unique name; {shorten(name)} is not {CLASS_NAME}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--classes {text}: every class needs a unique name")
    return Classes([str(name) for name in names], ids or list(range(1, len(names) + 1)), are_annotations)


def _from_file(path: Path) -> tuple[list[object], list[int], bool]:
    """Names, ids and whether the file contains annotations."""
    try:
        content = read_json(path, "--classes")
    except UserError as error:
        raise UserError(f"{error}; give a JSON list of names, or a,b,c") from None
    if isinstance(content, list):
        return content, [], False
    try:
        categories = sorted((int(item["id"]), item["name"]) for item in content["categories"])
    except (TypeError, KeyError, ValueError):
        raise UserError(f"--classes {path}: neither a list of names nor a COCO annotation file") from None
    return [name for _, name in categories], [number for number, _ in categories], True
