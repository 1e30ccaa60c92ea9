"""Image files of a folder without annotations, and removal of those that a labelled dataset contains."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from afictl.data.folders import SPLITS, find_files, has_split
from afictl.data.formats.coco import load_coco
from afictl.data.image_listing import have_equal_content
from afictl.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the files with ``suffixes`` in a folder and its subfolders, sorted, without hidden ones.

    Also listed are links, pipes and others of such names that cannot be read, so that none is skipped silently.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"image folder {folder} {'is a file' if folder.exists() else 'does not exist'}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes)
    files = [file for file in files if not file.name.startswith(".") and not file.is_dir()]
    if not files:
        raise UserError(f"folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return files


def without_labelled(files: list[Path], data_dir: Path) -> list[Path]:
    """Those of ``files`` that no split of a dataset in COCO layout lists in its annotations.

    Images are compared by their bytes: two sets may use the same names for different images, and copies may have other
    names. Absent splits are skipped; images in the folders of the dataset that no annotation file lists are not
    labelled.

    Raises:
        UserError: no such dataset, or an annotation file that cannot be read.
    """
    by_size: dict[int, list[Path]] = {}
    for path in _labelled_images(data_dir):
        by_size.setdefault(_size(path), []).append(path)
    return [file for file in files if not any(have_equal_content(file, path) for path in by_size.get(_size(file), ()))]


def _labelled_images(data_dir: Path) -> Iterator[Path]:
    splits = [split for split in SPLITS if has_split(data_dir, split)]
    if not splits:
        find_files(data_dir, "train")  # raises the error that names the missing paths
    for split in splits:
        dataset = load_coco(data_dir, split)
        yield from (dataset.image_path(i) for i in range(len(dataset)))


def _size(file: Path) -> int:
    """Size in bytes; -1 for a file that cannot be read."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
