"""Index file: the arrays of a dataset as safetensors, mapped into memory and checked like any untrusted file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afictl.data.hashing import tensor_digest
from afictl.errors import UserError
from afictl.tensor_files import read_tensors, save_tensors

_FORMAT = 3
"""A file of another number is stale and written again."""

_SIDE_LIMIT_PX = 2**31


class IndexContents(NamedTuple):
    """Fields of ``Dataset`` that depend on the annotation file alone."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    arrays: Mapping[str, Tensor]


class MappedArrays(Mapping[str, Tensor]):
    """Arrays of an index file. Pickled as the path of the file, whose pages the other process shares."""

    def __init__(self, path: Path, source: str, arrays: dict[str, Tensor]) -> None:
        self._path, self._source, self._arrays = path.absolute(), source, arrays
        self._identity = _identity(path)

    def __getitem__(self, name: str) -> Tensor:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Callable[..., Mapping[str, Tensor]], tuple[object, ...]]:
        if _identity(self._path) == self._identity:
            return _reopen, (self._path, self._source)
        return dict, (self._arrays,)  # replaced or deleted since: only this process still maps it


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _reopen(path: Path, source: str) -> Mapping[str, Tensor]:
    contents = read_index_file(path, source, trusted=True)
    if contents is None:
        raise UserError(f"{path}: changed or deleted while processes started; start again")
    return contents.arrays


def write_index_file(path: Path, source: str, contents: IndexContents) -> None:
    """Write the index of the annotation file of digest ``source``; an existing file is replaced at once.

    Raises:
        OSError: it cannot be written.
    """
    description = {
        "format": _FORMAT,
        "source": source,
        "classes": contents.classes,
        "category_ids": contents.category_ids,
        "digests": {name: tensor_digest(values) for name, values in contents.arrays.items()},
    }
    save_tensors(path, contents.arrays, description)


def read_index_file(path: Path, source: str, *, trusted: bool = False) -> IndexContents | None:
    """Map an index file; None where it is absent, stale or damaged.

    Args:
        path: the index file.
        source: digest of the annotation file; another one in the index file makes it stale.
        trusted: do not compare every array with its digest.
    """
    try:
        arrays, description = read_tensors(path)
    except (UserError, OSError):
        return None
    if description.get("format") != _FORMAT or description.get("source") != source:
        return None
    classes, category_ids = (description.get(key, ()) for key in ("classes", "category_ids"))
    if not _is_category_list(classes, category_ids) or not _are_valid(arrays, len(classes)):
        return None
    if not trusted and {name: tensor_digest(values) for name, values in arrays.items()} != description.get("digests"):
        return None
    return IndexContents(tuple(classes), tuple(category_ids), MappedArrays(path, source, arrays))


def _is_category_list(classes: object, ids: object) -> bool:
    return (
        isinstance(classes, list)
        and isinstance(ids, list)
        and 0 < len(classes) == len(ids)
        and all(type(name) is str for name in classes)
        and all(type(number) is int and abs(number) < 2**63 for number in ids)
    )


def _are_valid(arrays: Mapping[str, Tensor], classes: int) -> bool:
    """Whether the arrays have their types and shapes, and no number in one is out of the range of another."""
    sizes = {name: len(values) if values.ndim else 0 for name, values in arrays.items()}
    if not {"image_ids", "ids", "names", "polygon_points", "polygon_ends", "rle"} <= sizes.keys():
        return False
    images, objects, polygons = sizes["image_ids"], sizes["ids"], sizes["polygon_ends"] - 1
    expected = {
        "image_ids": (torch.int64, (images,)),
        "sizes_hw": (torch.int64, (images, 2)),
        "names": (torch.uint8, (sizes["names"],)),
        "name_ends": (torch.int64, (images + 1,)),
        "object_ends": (torch.int64, (images + 1,)),
        "xywh": (torch.float64, (objects, 4)),
        "labels": (torch.int64, (objects,)),
        "crowd": (torch.bool, (objects,)),
        "ignore": (torch.bool, (objects,)),
        "areas": (torch.float64, (objects,)),
        "ids": (torch.int64, (objects,)),
        "polygon_points": (torch.float64, (sizes["polygon_points"],)),
        "polygon_ends": (torch.int64, (polygons + 1,)),
        "object_polygons": (torch.int64, (objects + 1,)),
        "rle": (torch.uint8, (sizes["rle"],)),
        "rle_ends": (torch.int64, (objects + 1,)),
    }
    return (
        images > 0
        and {name: (values.dtype, tuple(values.shape)) for name, values in arrays.items()} == expected
        and _lie_within(arrays["sizes_hw"], 1, _SIDE_LIMIT_PX - 1)
        and _lie_within(arrays["labels"], 1, classes)
        and all(_lie_within(arrays[flag].view(torch.uint8), 0, 1) for flag in ("crowd", "ignore"))
        and _are_ends(arrays["name_ends"], sizes["names"])
        and _are_ends(arrays["object_ends"], objects)
        and _are_ends(arrays["polygon_ends"], sizes["polygon_points"], step=2, min_length=6)
        and _are_ends(arrays["object_polygons"], polygons)
        and _are_ends(arrays["rle_ends"], sizes["rle"])
    )


def _lie_within(values: Tensor, minimum: int, maximum: int) -> bool:
    if not values.numel():
        return True
    low, high = values.aminmax()
    return minimum <= int(low) and int(high) <= maximum


def _are_ends(ends: Tensor, size: int, step: int = 1, min_length: int = 0) -> bool:
    """Whether they divide ``size`` into lengths of at least ``min_length``, each a multiple of ``step``."""
    if not len(ends) or ends[0] != 0 or ends[-1] != size or not _lie_within(ends, 0, size):
        return False
    lengths = ends.diff()
    return bool((lengths >= min_length).all()) and (step == 1 or not bool((lengths % step).any()))
