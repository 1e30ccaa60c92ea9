"""Reader of valid COCO annotation files, in a fraction of the time and memory of a tree of dicts.

Records become typed structs, and a segmentation stays a view of the file's bytes. The objects of a file of more than
``_LARGE_BYTES`` are decoded in chunks, as all structs at once would take three times its size. Errors are not named
here: other files are left to ``coco_records``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from afictl.data.annotations import Annotations
from afictl.data.formats.coco_records import may_repeat_sections
from afictl.data.formats.coco_values import is_class_name, is_name, parse_flag
from afictl.json_files import read_json_text

_LARGE_BYTES = 2**30
_CHUNK_OBJECTS = 500_000

_Number = int | float
"""With ``int`` alone msgspec would convert 1.0 to an integer."""

_Flag = int | float | bool | str | None


class _Category(msgspec.Struct, gc=False):
    id: _Number
    name: str


class _Image(msgspec.Struct, gc=False):
    id: _Number
    file_name: str
    height: _Number
    width: _Number


class _Object(msgspec.Struct, gc=False):
    image_id: _Number
    category_id: _Number
    bbox: tuple[float, float, float, float]
    id: object = None
    """Any value: ground truth needs none."""
    area: _Number | None = None
    iscrowd: _Flag = None
    ignore: _Flag = None
    segmentation: Raw | UnsetType = UNSET


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object] | UnsetType = UNSET


class _LargeFile(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: Raw | UnsetType = UNSET


class _ObjectColumns(NamedTuple):
    """Columns of m objects, as in ``Annotations``."""

    ids: np.ndarray
    image_index: np.ndarray
    labels: np.ndarray
    xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    segmentations: list[object]


class _IrregularFileError(Exception):
    """A file that this reader leaves to ``coco_records``."""


def read_fast(file: Path, *, lenient: bool = False, omitted: Set[int] = frozenset()) -> Annotations | None:
    """The columns of an annotation file, or None where it has to be read record by record.

    Args:
        file: the annotation file.
        lenient: leave out objects of an unknown image or category, and accept whatever has no effect on a score:
            objects without an id, categories of one name, an empty name, no categories.
        omitted: ids of categories to leave out, which no object has.
    """
    try:
        text = read_json_text(file)  # checked to be UTF-8: msgspec does not check the text that it skips
        if may_repeat_sections(text):  # msgspec would take the last
            return None
        contents = msgspec.json.decode(text, type=_LargeFile if len(text) > _LARGE_BYTES else _File)
        contents.categories = [category for category in contents.categories if category.id not in omitted]
        return _columns(file, contents, lenient)
    except (ValueError, msgspec.MsgspecError, OverflowError, RecursionError, _IrregularFileError):
        return None


def _columns(file: Path, contents: _File | _LargeFile, lenient: bool) -> Annotations:
    categories, images = sorted(contents.categories, key=lambda category: category.id), contents.images
    if not lenient:
        _require_regular(file, contents)
    category_ids = _distinct_ids(category.id for category in categories)
    image_ids = _distinct_ids(image.id for image in images)
    if not len(image_ids):
        raise _IrregularFileError
    chunks = [_object_columns(chunk, image_ids, category_ids, lenient) for chunk in _chunks(contents.annotations)]
    segmentations = list(chain.from_iterable(chunk.segmentations for chunk in chunks))
    ids, *columns = (np.concatenate(parts) for parts in zip(*(chunk[:-1] for chunk in chunks), strict=True))
    image_index, labels, xywh, areas, crowd, ignore = columns
    if lenient:
        ids = np.arange(len(labels))
    elif len(np.unique(ids)) < len(ids):
        raise _IrregularFileError
    return Annotations(
        classes=tuple(category.name for category in categories),
        category_ids=tuple(category_ids.tolist()),
        image_ids=image_ids,
        file_names=[image.file_name for image in images],
        sizes_hw=_lengths(images),
        ids=ids,
        image_index=image_index,
        labels=labels,
        xywh=xywh,
        areas=areas,
        crowd=crowd,
        ignore=ignore,
        segmentations=segmentations,
    )


def _chunks(annotations: list[_Object] | Raw | UnsetType) -> Iterator[list[_Object]]:
    """The objects in one list, or those of a large file in several."""
    if not isinstance(annotations, Raw):
        yield [] if isinstance(annotations, UnsetType) else annotations
        return
    records = msgspec.json.decode(annotations, type=list[Raw])
    for start in range(0, max(1, len(records)), _CHUNK_OBJECTS):
        text = b"[" + b",".join(records[start : start + _CHUNK_OBJECTS]) + b"]"
        yield msgspec.json.decode(text, type=list[_Object])


def _object_columns(
    objects: list[_Object], image_ids: np.ndarray, category_ids: np.ndarray, lenient: bool
) -> _ObjectColumns:
    """Columns of ``objects``; lenient, of those whose image and category are known, with ids of 0."""
    image_index = _positions((record.image_id for record in objects), image_ids, lenient)
    labels = _positions((record.category_id for record in objects), category_ids, lenient) + 1
    if lenient:
        valid = (image_index >= 0) & (labels > 0)
        objects = [record for record, is_valid in zip(objects, valid.tolist(), strict=True) if is_valid]
        image_index, labels = image_index[valid], labels[valid]
    return _ObjectColumns(
        ids=np.zeros(len(objects), np.int64) if lenient else _integers(record.id for record in objects),
        image_index=image_index,
        labels=labels,
        xywh=np.fromiter(chain.from_iterable(record.bbox for record in objects), np.float64).reshape(-1, 4),
        areas=np.array([record.area for record in objects], dtype=np.float64),  # None becomes NaN
        crowd=_flags([record.iscrowd for record in objects]),
        ignore=_flags([record.ignore for record in objects]),
        segmentations=[None if record.segmentation is UNSET else record.segmentation for record in objects],
    )


def _require_regular(file: Path, contents: _File | _LargeFile) -> None:
    names = [category.name for category in contents.categories]
    file_names = [image.file_name for image in contents.images]
    has_distinct_names = 0 < len(set(names)) == len(names)
    is_valid = has_distinct_names and all(map(is_class_name, names)) and all(map(is_name, file_names))
    if not is_valid or (isinstance(contents.annotations, UnsetType) and not file.name.startswith("image_info")):
        raise _IrregularFileError


def _flags(values: Sequence[_Flag]) -> np.ndarray:
    """Bool (n,); a file has few different values."""
    flags = {value: parse_flag(value) for value in set(values)}
    if None in flags.values():
        raise _IrregularFileError
    return np.fromiter(map(flags.__getitem__, values), dtype=bool, count=len(values))


def _integers(values: Iterable[object]) -> np.ndarray:
    """Int64 (n,)."""
    numbers = list(values)
    if not set(map(type, numbers)) <= {int}:
        raise _IrregularFileError
    array = np.array(numbers, dtype=np.int64)
    if len(array) and array.min() == np.iinfo(np.int64).min:  # coco_records requires abs(id) < 2**63
        raise _IrregularFileError
    return array


def _distinct_ids(values: Iterable[object]) -> np.ndarray:
    ids = _integers(values)
    if len(np.unique(ids)) < len(ids):
        raise _IrregularFileError
    return ids


def _positions(values: Iterable[_Number], ids: np.ndarray, lenient: bool) -> np.ndarray:
    """Position of each of ``values`` among ``ids``, int64; lenient, -1 of one that is not there."""
    targets, order = _integers(values), np.argsort(ids)
    if not len(ids):
        return np.full(len(targets), -1)
    positions = order[np.searchsorted(ids[order], targets).clip(max=len(ids) - 1)]
    unknown = ids[positions] != targets
    if unknown.any() and not lenient:
        raise _IrregularFileError
    return np.where(unknown, -1, positions)


def _lengths(images: list[_Image]) -> np.ndarray:
    """Int64 (n,2), heights and widths."""
    sizes = np.array([(image.height, image.width) for image in images], dtype=np.float64)
    if not ((sizes >= 1) & (sizes < 2**31) & (sizes == np.floor(sizes))).all():
        raise _IrregularFileError
    return sizes.astype(np.int64)
