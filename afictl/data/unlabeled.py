"""Removal of the images that a labelled dataset contains from a list of unlabelled ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from afictl.data.image_listing import have_equal_content
from afictl.data.layouts import find_layout

_UNREADABLE = -1


def without_labelled(files: list[Path], data_dir: Path) -> tuple[list[Path], list[Path]]:
    """Those of ``files`` that no split of a dataset lists in its annotations, and its images that cannot be read.

    Images are compared by their bytes: two sets may use the same names for different images, and copies may have other
    names. Absent splits are skipped; images in the folders of the dataset that no annotation file lists are not
    labelled.

    Raises:
        UserError: no such dataset, or an annotation file that cannot be read.
    """
    by_size: dict[int, list[Path]] = {}
    for path in _labelled_images(data_dir):
        by_size.setdefault(_size(path), []).append(path)
    unreadable = by_size.pop(_UNREADABLE, [])
    labelled = [any(have_equal_content(file, path) for path in by_size.get(_size(file), ())) for file in files]
    return [file for file, is_labelled in zip(files, labelled, strict=True) if not is_labelled], unreadable


def _labelled_images(data_dir: Path) -> Iterator[Path]:
    layout = find_layout(data_dir)
    if not layout.complete_splits:
        layout.find("train")  # raises the error that names the missing paths
    for split in layout.complete_splits:
        dataset = layout.find(split).load()
        yield from (dataset.image_path(i) for i in range(len(dataset)))


def _size(file: Path) -> int:
    """Size in bytes; ``_UNREADABLE`` of a file that cannot be read."""
    try:
        return file.stat().st_size
    except OSError:
        return _UNREADABLE
