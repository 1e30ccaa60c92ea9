"""Reading of a sound COCO annotation file in a fraction of the time and memory of a tree of dicts.

Records become typed structs, and a segmentation stays a view of the file's bytes. Nothing is judged here: a file
in which anything is unusual is left to ``annotations.read_carefully``, which says what it is or makes sense of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from afictl.data.columns import Annotations

_Number = int | float
"""With ``int`` alone msgspec would take 1.0 for a whole number."""


class _Category(msgspec.Struct, gc=False):
    id: _Number
    name: str


class _Image(msgspec.Struct, gc=False):
    id: _Number
    file_name: str
    height: _Number
    width: _Number


class _Object(msgspec.Struct, gc=False):
    id: _Number
    image_id: _Number
    category_id: _Number
    bbox: tuple[float, float, float, float]
    area: _Number | None = None
    iscrowd: _Number | bool | None = None
    segmentation: Raw | UnsetType = UNSET


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object] | UnsetType = UNSET


class _UnusualError(Exception):
    """What this reader leaves to the careful one."""


def read_fast(file: Path) -> Annotations | None:
    """The columns of an annotation file, or None where the careful reader has to look."""
    try:
        contents = file.read_bytes()
        _check_text(contents)
        return _columns(file, msgspec.json.decode(contents, type=_File))
    except (OSError, ValueError, msgspec.MsgspecError, OverflowError, RecursionError, _UnusualError):
        return None


def _check_text(contents: bytes) -> None:
    """Raise ``UnicodeDecodeError`` at bytes that are no UTF-8: msgspec does not look into what it skips."""
    if contents.isascii():
        return
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(contents)
    for start in range(0, len(view), 2**20):
        decoder.decode(view[start : start + 2**20], final=start + 2**20 >= len(view))


def _columns(file: Path, contents: _File) -> Annotations:
    categories, images = sorted(contents.categories, key=lambda category: category.id), contents.images
    if isinstance(contents.annotations, UnsetType) and not file.name.startswith("image_info"):
        raise _UnusualError
    objects = contents.annotations or []
    names = [category.name for category in categories]
    file_names = [image.file_name for image in images]
    if not names or not file_names or "" in names or "" in file_names or len(set(names)) < len(names):
        raise _UnusualError
    category_ids = _distinct_ids(category.id for category in categories)
    image_ids = _distinct_ids(image.id for image in images)
    xywh = np.fromiter(chain.from_iterable(record.bbox for record in objects), np.float64).reshape(-1, 4)
    areas = np.array([record.area for record in objects], dtype=np.float64)  # None becomes NaN
    return Annotations(
        file=file,
        classes=tuple(names),
        category_ids=tuple(category_ids.tolist()),
        image_ids=image_ids,
        file_names=file_names,
        sizes_hw=_lengths(images),
        ids=_distinct_ids(record.id for record in objects),
        image_index=_positions((record.image_id for record in objects), image_ids),
        labels=_positions((record.category_id for record in objects), category_ids) + 1,
        xywh=xywh,
        areas=np.where(np.isnan(areas), xywh[:, 2] * xywh[:, 3], areas),
        crowd=np.array([bool(record.iscrowd) for record in objects], dtype=bool),
        segmentations=[None if record.segmentation is UNSET else record.segmentation for record in objects],
    )


def _whole(values: Iterable[_Number]) -> np.ndarray:
    """Int64."""
    numbers = list(values)
    if not set(map(type, numbers)) <= {int}:
        raise _UnusualError
    array = np.array(numbers, dtype=np.int64)
    if len(array) and array.min() == np.iinfo(np.int64).min:  # the careful reader wants abs(id) < 2**63
        raise _UnusualError
    return array


def _distinct_ids(values: Iterable[_Number]) -> np.ndarray:
    ids = _whole(values)
    if len(np.unique(ids)) < len(ids):
        raise _UnusualError
    return ids


def _positions(values: Iterable[_Number], ids: np.ndarray) -> np.ndarray:
    """Where each of ``values`` stands among ``ids``, int64."""
    targets, order = _whole(values), np.argsort(ids)
    found = np.searchsorted(ids[order], targets).clip(max=len(ids) - 1)
    positions = order[found]
    if (ids[positions] != targets).any():
        raise _UnusualError
    return positions


def _lengths(images: list[_Image]) -> np.ndarray:
    """Int64 (n,2), heights and widths."""
    sizes = np.array([(image.height, image.width) for image in images], dtype=np.float64)
    if not ((sizes >= 1) & (sizes < 2**31) & (sizes == np.floor(sizes))).all():
        raise _UnusualError
    return sizes.astype(np.int64)
