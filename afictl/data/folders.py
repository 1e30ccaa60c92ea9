"""Folder layout of a dataset: annotation files and image folders of its splits."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Literal

from afictl.data.other_layouts import describe_layout
from afictl.errors import UserError

SPLITS = ("train", "val", "test")
_MAX_ENTRIES = 200
_MAX_SUBFOLDERS = 20
_IMAGE_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png", ".PNG")

_UNICODE_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
"""Of accented letters: composed, as most programs write them, and decomposed, as in file names from macOS."""


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
    names = [f"annotations/{name}" for name in annotation_names(split)]
    file = _first(data_dir, names, Path.is_file, f"{split} annotation file")
    folders = _image_folders(split)
    if "2017" not in file.name:
        folders.reverse()
    return file, _first(data_dir, folders, Path.is_dir, f"{split} image folder")


def _image_folders(split: str) -> list[str]:
    return [f"{split}2017", split]


def _first(data_dir: Path, names: list[str], exists: Callable[[Path], bool], role: str) -> Path:
    for name in names:
        if exists(data_dir / name):
            return data_dir / name
    layout = describe_layout(data_dir)
    raise UserError(f"no {role}: {f'{layout}; ' if layout else ''}looked for {' and '.join(names)} in {data_dir}")


def has_split(data_dir: Path, split: str) -> bool:
    """Whether both the annotation file and the image folder of a split exist."""
    return any((data_dir / "annotations" / name).is_file() for name in annotation_names(split)) and any(
        (data_dir / name).is_dir() for name in _image_folders(split)
    )


def portable_name(folder: Path, name: str) -> str:
    """``file_name`` of an image, with slashes for the backslashes of Windows unless a file has this very name."""
    if "\\" not in name or os.sep == "\\" or os.path.exists(folder / name):
        return name
    return name.replace("\\", "/")


def absence_hint(folder: Path, name: str) -> str:
    """Where a file that is not at its ``file_name`` lies in ``folder``, and what to do; empty if it does not."""
    base = name.replace("\\", "/").rpartition("/")[2]
    if base and base != name and os.path.isfile(folder / base):
        return f"{base} is in {folder}: remove the folder from 'file_name'"
    for form in _UNICODE_FORMS:
        other = unicodedata.normalize(form, name)
        if other != name and os.path.isfile(folder / other):
            return f"the name of the file is in Unicode form {form}, 'file_name' is not: correct one of them"
    for parent in _subfolders(folder):
        if base and os.path.isfile(parent / base):
            return f"{base} is in {parent}: put that folder before 'file_name', or move the images to {folder}"
    for suffix in _IMAGE_SUFFIXES:
        other = f"{base.rpartition('.')[0] or base}{suffix}"
        if other != base and os.path.isfile(folder / other):
            return f"{other} is in {folder}: correct 'file_name'"
    return ""


def _subfolders(folder: Path) -> list[Path]:
    """The first folders below ``folder``; images may be sorted into such folders."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in islice(entries, _MAX_ENTRIES) if entry.is_dir()][:_MAX_SUBFOLDERS]
    except OSError:
        return []


def leaves_folder(folder: Path, name: str) -> bool:
    """Whether a ``file_name`` names a file outside the image folder that it is relative to.

    Links below the folder are not resolved: a folder of links to images elsewhere is the user's own decision.
    """
    if not os.path.isabs(name):
        return os.path.normpath(name).split(os.sep)[0] == os.pardir
    path = os.path.normpath(name)
    return not any(path.startswith(f"{base}{os.sep}") for base in (os.path.abspath(folder), os.path.realpath(folder)))
