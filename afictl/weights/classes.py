"""Class names and category ids for detectors whose checkpoint has none."""

from __future__ import annotations

import os
from pathlib import Path

from afictl.errors import UserError
from afictl.json_files import read_json
from afictl.name_or_path import Names, parse_name

_MAX_CLASSES = 100_000
_FILE_SUFFIXES = (".json", ".txt", ".yaml", ".yml")

Classes = tuple[list[str], list[int]]
"""Names and COCO category ids in label order."""


def default_classes(count: int) -> Classes:
    """COCO's classes for a count of 80, else ``class_1``, ``class_2``, ...

    Raises:
        UserError: more than 100,000 classes.
    """
    if count > _MAX_CLASSES:
        raise UserError(f"a class layer of {count:,} classes; at most {_MAX_CLASSES:,} are supported")
    if count != 80:
        return [f"class_{i}" for i in range(1, count + 1)], list(range(1, count + 1))
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    # The index is COCO's category id, with gaps.
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    used = {i: name for i, name in enumerate(names) if name not in ("__background__", "N/A")}
    return list(used.values()), list(used)


def read_classes(text: str) -> Classes:
    """Parse the value of ``--classes``: comma-separated names, or a JSON file.

    A value with a file suffix, or with a slash and no comma, is a file; any other is names, perhaps after ``names:``.
    A file contains a list of names, or is a COCO annotation file, whose categories are ordered by id, as detectron2
    and afictl number them.

    Raises:
        UserError: no such file, names that are also an existing file, no classes, or a repeated name.
    """
    if text.lower().endswith(_FILE_SUFFIXES) or (set(text) & {"/", "\\"} and "," not in text):
        names, ids = _from_file(Path(text))
    else:
        value = text.removeprefix("names:")
        if os.path.isfile(text):  # a folder is no list of classes
            parse_name(text, Names([value], "names", "class"), "--classes ")
        names, ids = [*map(str.strip, value.split(","))], []
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise UserError(f"--classes {text}: every class needs a unique, non-empty name")
    return [str(name) for name in names], ids or list(range(1, len(names) + 1))


def _from_file(path: Path) -> tuple[list[object], list[int]]:
    try:
        content = read_json(path, "--classes")
    except UserError as error:
        raise UserError(f"{error}; give a JSON list of names, or a,b,c") from None
    if isinstance(content, list):
        return content, []
    try:
        categories = sorted((int(item["id"]), item["name"]) for item in content["categories"])
    except (TypeError, KeyError, ValueError):
        raise UserError(f"--classes {path}: neither a list of names nor a COCO annotation file") from None
    return [name for _, name in categories], [number for number, _ in categories]
