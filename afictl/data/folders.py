"""Where a data set's files are, and the reading of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from afictl.errors import UserError

SPLITS = ("train", "val", "test")


def annotation_names(split: str) -> list[str]:
    """The file names that a split's annotations may have, in order of preference."""
    names = [f"instances_{split}2017.json", f"instances_{split}.json"]
    return names + ["image_info_test-dev2017.json", "image_info_test2017.json"] * (split == "test")


def require_data_folder(data_dir: Path) -> None:
    """Refuse what cannot be a data set.

    Raises:
        UserError: no such folder, or a file.
    """
    if data_dir.is_file():
        raise UserError(f"{data_dir} is a file; a data set is the folder that holds annotations/ and the images")
    if not data_dir.is_dir():
        raise UserError(f"data folder {data_dir} does not exist")


def find_files(data_dir: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split.

    Raises:
        UserError: unknown split, or a missing file or folder; names the paths that were looked for.
    """
    if split not in SPLITS:
        raise UserError(f"split '{split}' does not exist; splits are {', '.join(SPLITS)}")
    require_data_folder(data_dir)
    file = _first(
        [data_dir / "annotations" / name for name in annotation_names(split)], Path.is_file, f"{split} annotation file"
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


def absent_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are no file in ``folder`` or below.

    Each folder is listed once: for 100,000 files half of the time that it takes to look for every one, and less
    still over a network.
    """
    places = [os.path.split(name) for name in names]
    there = {parent: _files_in(folder / parent) for parent in {parent for parent, _ in places}}
    unlisted = [name for name, (parent, file) in zip(names, places, strict=True) if file not in there[parent]]
    # A file system may know a file by more names than the listed one, as in capital letters.
    return [name for name in unlisted if not (folder / name).is_file()]


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def read_json(path: Path, what: str) -> Any:
    """The parsed file; ``what`` names its role in the error of a missing or broken file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: not readable as JSON: {error}") from None


def read_instances(file: Path, *, needs_objects: bool = True) -> dict[str, list[dict[str, Any]]]:
    """A COCO annotation file, with ``images``, ``annotations`` and ``categories`` as lists of dicts.

    Args:
        file: the file.
        needs_objects: whether a file without ``annotations`` is at fault; COCO's lists of test images have none.

    Raises:
        UserError: not JSON, a missing key, something else than lists of mappings.
    """
    contents = read_json(file, "annotation file")
    if not isinstance(contents, dict):
        raise UserError(f"{file}: holds a {type(contents).__name__}, not the mapping of a COCO annotation file")
    if not needs_objects or file.name.startswith("image_info"):
        contents.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if key not in contents:
            raise UserError(f"{file}: key '{key}' is missing")
        records = contents[key]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(f"{file}: '{key}' must be a list of mappings")
    return contents
