"""Image files without annotations, and which of them a labelled data set holds already."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from pathlib import Path

from afictl.data.folders import SPLITS, find_files
from afictl.data.formats.coco import load_coco
from afictl.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted; hidden files are left out.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"image folder {folder} {'is a file' if folder.exists() else 'does not exist'}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    files = [file for file in files if not file.name.startswith(".") and file.is_file()]
    if not files:
        raise UserError(f"folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return files


def without_labelled(files: list[Path], data_dir: Path) -> list[Path]:
    """Those of ``files`` that no split of a data set in COCO layout lists in its annotations.

    Images are compared by their bytes: sets that number their files anew share names and not images, and copies have
    other names. Splits that the data set lacks hold nothing; images in its folders that no annotation file lists are
    not labelled.

    Raises:
        UserError: no such data set, or an annotation file that cannot be read.
    """
    by_size: dict[int, list[Path]] = {}
    for path in _labelled(data_dir):
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    return [file for file in files if not any(_same(file, other) for other in by_size.get(file.stat().st_size, ()))]


def _labelled(data_dir: Path) -> Iterator[Path]:
    splits = [split for split in SPLITS if _has(data_dir, split)]
    if not splits:
        find_files(data_dir, "train")  # says what it looked for
    for split in splits:
        index = load_coco(data_dir, split)
        yield from (index.image_path(i) for i in range(len(index)))


def _has(data_dir: Path, split: str) -> bool:
    try:
        find_files(data_dir, split)
    except UserError:
        return False
    return True


def _same(first: Path, second: Path) -> bool:
    return filecmp.cmp(first, second, shallow=False)
