"""Folder layout of a dataset: annotation files and image folders of its splits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from afictl.errors import UserError

SPLITS = ("train", "val", "test")


def annotation_names(split: str) -> list[str]:
    """The file names that a split's annotations may have, in order of preference."""
    names = [f"instances_{split}2017.json", f"instances_{split}.json"]
    return names + ["image_info_test-dev2017.json", "image_info_test2017.json"] * (split == "test")


def require_data_folder(data_dir: Path) -> None:
    """Check that a path can be a dataset.

    Raises:
        UserError: no such folder, or a file.
    """
    if data_dir.is_file():
        raise UserError(f"{data_dir} is a file; a dataset is the folder that holds annotations/ and the images")
    if not data_dir.is_dir():
        raise UserError(f"data folder {data_dir} does not exist")


def find_files(data_dir: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split.

    Raises:
        UserError: unknown split, or a missing file or folder; names the paths that were tried.
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


def _first(paths: list[Path], exists: Callable[[Path], bool], role: str) -> Path:
    for path in paths:
        if exists(path):
            return path
    raise UserError(f"no {role}: looked for {' and '.join(map(str, paths))}")


def has_split(data_dir: Path, split: str) -> bool:
    """Whether both the annotation file and the image folder of a split exist."""
    try:
        find_files(data_dir, split)
    except UserError:
        return False
    return True


def leaves_folder(folder: Path, name: str) -> bool:
    """Whether a ``file_name`` names a file outside the image folder that it is relative to.

    Links below the folder are not resolved: a folder of links to images elsewhere is the user's own decision.
    """
    if not os.path.isabs(name):
        return os.path.normpath(name).split(os.sep)[0] == os.pardir
    path = os.path.normpath(name)
    return not any(path.startswith(f"{base}{os.sep}") for base in (os.path.abspath(folder), os.path.realpath(folder)))
