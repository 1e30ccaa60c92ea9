"""Names of splits, and image files below the folder of a dataset."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Literal

from afictl.errors import UserError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_MAX_ENTRIES = 200
_MAX_SUBFOLDERS = 20
_COMMON_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png", ".PNG")

_UNICODE_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
"""Of accented letters: composed, as most programs write them, and decomposed, as in file names from macOS."""


def require_unused_folder(folder: Path) -> None:
    """Check that a folder to write is absent or empty.

    Raises:
        UserError: it is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is in use: choose another folder")


def image_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the files with ``suffixes`` in a folder and its subfolders, sorted, without hidden ones.

    Also listed are links, pipes and others of such names that cannot be read, so that none is skipped silently.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is a file, not a folder of images' if folder.exists() else 'no such folder'}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes)
    files = [file for file in files if not file.name.startswith(".") and not file.is_dir()]
    if not files:
        kinds = "image" if set(suffixes) == set(IMAGE_SUFFIXES) else "file"
        raise UserError(f"{folder}: holds no {kinds} in {', '.join(suffixes)}")
    return files


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
    for parent in subfolders(folder):
        if base and os.path.isfile(parent / base):
            return f"{base} is in {parent}: put that folder before 'file_name', or move the images to {folder}"
    for suffix in _COMMON_SUFFIXES:
        other = f"{base.rpartition('.')[0] or base}{suffix}"
        if other != base and os.path.isfile(folder / other):
            return f"{other} is in {folder}: correct 'file_name'"
    return ""


def subfolders(folder: Path) -> list[Path]:
    """Up to 20 folders in ``folder`` that are not hidden, sorted; empty for a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            folders = [Path(entry.path) for entry in islice(entries, _MAX_ENTRIES) if entry.is_dir()]
    except OSError:
        return []
    return sorted(path for path in folders if not path.name.startswith("."))[:_MAX_SUBFOLDERS]


def leaves_folder(folder: Path, name: str) -> bool:
    """Whether a ``file_name`` names a file outside the image folder that it is relative to.

    Links below the folder are not resolved: a folder of links to images elsewhere is the user's own decision.
    """
    if not os.path.isabs(name):
        return os.path.normpath(name).split(os.sep)[0] == os.pardir
    path = os.path.normpath(name)
    return not any(path.startswith(f"{base}{os.sep}") for base in (os.path.abspath(folder), os.path.realpath(folder)))


def image_to_copy(folder: Path, name: str) -> Path:
    """The image of a ``file_name``, which is to have the same name in another folder.

    Raises:
        UserError: the name leads out of the folder, or there is no such file.
    """
    path = folder / portable_name(folder, name)
    if os.path.isabs(name) or leaves_folder(folder, portable_name(folder, name)):
        raise UserError(f"image {name!r}: its file_name leaves the image folder {folder}; correct the annotations")
    if not path.is_file():
        hint = f"{hint}; " if (hint := absence_hint(folder, name)) else ""
        raise UserError(f"image {path} does not exist; {hint}'afictl data check' lists every missing one")
    return path
