"""COCO annotation files as ``Dataset``; valid files are read fast, others record by record."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial
from pathlib import Path

from afictl.control_characters import escape_control_characters
from afictl.data.annotations import Annotations, pack_annotations
from afictl.data.dataset import Dataset
from afictl.data.formats.coco_fast import read_fast
from afictl.data.formats.coco_records import read_carefully, read_leniently
from afictl.data.index_cache import cached
from afictl.data.index_file import IndexContents
from afictl.garbage_collection import paused_garbage_collection


def load_coco_file(annotation_file: Path, image_dir: Path, *, omitted: Set[int] = frozenset()) -> Dataset:
    """Load one annotation file, from its cached index if there is one.

    Args:
        annotation_file: the file.
        image_dir: folder that its file names are relative to.
        omitted: ids of categories to leave out, which no object has.

    Raises:
        UserError: a file or key is missing, not JSON, an unknown or duplicate id; names file, key and id.
    """
    read = partial(_read, annotation_file, partial(read_annotations, omitted=omitted))
    contents = cached(annotation_file, read, variant=f" without {sorted(omitted)}" if omitted else "")
    return Dataset(annotation_file, image_dir, *contents)


def load_ground_truth_file(annotation_file: Path) -> Dataset:
    """Load what can be scored of an annotation file; for evaluation alone, without images and annotation ids.

    Objects of an unknown image or category, or without a box, are left out (``afictl data check`` lists them).

    Raises:
        UserError: a file that cannot be read, without images, or with a fault in its images or categories.
    """
    return Dataset(annotation_file, Path(), *_read(annotation_file, _read_ground_truth))


def read_annotations(file: Path, omitted: Set[int] = frozenset()) -> Annotations:
    """Read an annotation file, without the categories of the ids ``omitted``, which no object has.

    Raises:
        UserError: not JSON, a missing key, a value of the wrong kind, an unknown or duplicate id.
    """
    return read_fast(file, omitted=omitted) or read_carefully(file, omitted)


def _read_ground_truth(file: Path) -> Annotations:
    annotations = read_fast(file, lenient=True) or read_leniently(file)
    return replace(annotations, classes=tuple(map(escape_control_characters, annotations.classes)))


def _read(file: Path, read: Callable[[Path], Annotations]) -> IndexContents:
    with paused_garbage_collection():
        return pack_annotations(read(file))
