"""The segmentations of a dataset as flat arrays.

An index of 860,000 objects must not consist of Python lists: every worker process that reads them copies their
pages (pytorch/pytorch#13246). Polygons are one float64 array with offsets, compressed RLEs one byte array.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afictl.data.segmentation import COORDINATE_LIMIT_PX, Segmentation, fills, normalize_segmentation
from afictl.errors import UserError

_Polygons: TypeAlias = Sequence[list[float]]

_CHUNK_OBJECTS = 4096
"""Objects whose coordinates are Python numbers at a time."""

_DAMAGED = (
    "an outline in the stored index of the annotations is damaged; delete the '.afictl-index' file and start again"
)

_parse_polygons = msgspec.json.Decoder(list[list[float]]).decode


def pack_segmentations(segmentations: Sequence[object], sizes_hw: np.ndarray) -> dict[str, Tensor]:
    """The arrays that ``read_segmentations`` and ``has_segmentation`` read; unusable segmentations become absent.

    Args:
        segmentations: one an object, parsed or as ``msgspec.Raw``; None where absent.
        sizes_hw: (n,2), height and width of each object's image.
    """
    writer = _ArrayWriter()
    for start in range(0, len(segmentations), _CHUNK_OBJECTS):
        chunk = slice(start, start + _CHUNK_OBJECTS)
        writer.add([_parse(value) for value in segmentations[chunk]], sizes_hw[chunk].tolist())
    return writer.arrays()


def _parse(value: object) -> object:
    """A segmentation as Python objects: a tuple of lists of floats where it consists of lists of numbers alone."""
    try:
        if isinstance(value, msgspec.Raw):
            return tuple(_parse_polygons(value))
        return tuple(msgspec.convert(value, list[list[float]])) if isinstance(value, list) else value
    except msgspec.MsgspecError:
        return json.loads(bytes(memoryview(value))) if isinstance(value, msgspec.Raw) else value


class _ArrayWriter:
    """Appends segmentations, some objects at a time, to flat arrays."""

    def __init__(self) -> None:
        self._points, self._polygon_ends, self._object_ends = array("d"), array("q", [0]), array("q", [0])
        self._rle, self._rle_ends = bytearray(), array("q", [0])

    def add(self, values: list[object], sizes_hw: list[list[int]]) -> None:
        """Append objects; tuples of lists of floats are checked together, other values one by one."""
        polygons: list[_Polygons] = []
        for value, size in zip(values, sizes_hw, strict=True):
            if isinstance(value, tuple):
                polygons.append(value)
                segmentation = None
            else:
                segmentation = normalize_segmentation(value, (size[0], size[1]))
                polygons.append([p.tolist() for p in segmentation] if isinstance(segmentation, list) else [])
            if isinstance(segmentation, dict):
                self._rle += segmentation["counts"]
            self._rle_ends.append(len(self._rle))
        self._add_polygons(polygons)

    def _add_polygons(self, polygons: list[_Polygons]) -> None:
        counts = np.fromiter(map(len, polygons), np.int64, len(polygons))
        flat = list(chain.from_iterable(polygons))
        lengths = np.fromiter(map(len, flat), np.int64, len(flat))
        points = np.fromiter(chain.from_iterable(flat), np.float64, int(lengths.sum()))
        is_valid = (lengths >= 6) & (lengths % 2 == 0)
        owner = np.repeat(np.arange(len(flat)), lengths)
        is_valid[owner[~(np.abs(points) < COORDINATE_LIMIT_PX)]] = False
        ends = len(self._points) + lengths[is_valid].cumsum()
        self._points.frombytes(points[is_valid[owner]].tobytes())
        objects = len(self._polygon_ends) - 1 + np.concatenate(([0], is_valid.cumsum()))[counts.cumsum()]
        self._polygon_ends.frombytes(ends.astype(np.int64).tobytes())
        self._object_ends.frombytes(objects.astype(np.int64).tobytes())

    def arrays(self) -> dict[str, Tensor]:
        return {
            "polygon_points": _tensor(self._points, torch.float64),
            "polygon_ends": _tensor(self._polygon_ends, torch.int64),
            "object_polygons": _tensor(self._object_ends, torch.int64),
            "rle": _tensor(self._rle, torch.uint8),
            "rle_ends": _tensor(self._rle_ends, torch.int64),
        }


def _tensor(values: array | bytearray, dtype: torch.dtype) -> Tensor:
    """A view; ``frombuffer`` refuses empty buffers."""
    return torch.frombuffer(values, dtype=dtype) if len(values) else torch.zeros(0, dtype=dtype)


def has_segmentation(arrays: Mapping[str, Tensor], start: int = 0, end: int | None = None) -> Tensor:
    """Bool, one for each object from ``start`` to before ``end``."""
    ends = slice(start, None if end is None else end + 1)
    return (arrays["object_polygons"][ends].diff() > 0) | (arrays["rle_ends"][ends].diff() > 0)


def read_segmentations(
    arrays: Mapping[str, Tensor], rows: Sequence[int], size_hw: tuple[int, int], dtype: npt.DTypeLike = np.float64
) -> list[Segmentation | None]:
    """The segmentations of some objects of one image of ``size_hw``; ``rows`` ascend, polygons have ``dtype``.

    Raises:
        UserError: the arrays come from a damaged file, at which pycocotools would crash.
    """
    if not rows:
        return []
    start, end = rows[0], rows[-1] + 1
    runs = arrays["rle_ends"][start : end + 1].tolist()
    objects = arrays["object_polygons"][start : end + 1].tolist()
    ends = arrays["polygon_ends"][objects[0] : objects[-1] + 1].tolist()
    points = arrays["polygon_points"][ends[0] : ends[-1]].numpy()
    if not (np.abs(points) < COORDINATE_LIMIT_PX).all():
        raise UserError(_DAMAGED)
    points = points.astype(dtype, copy=False)
    polygons = [points[a - ends[0] : b - ends[0]] for a, b in pairwise(ends)]
    segmentations: list[Segmentation | None] = []
    for k in (row - start for row in rows):
        if runs[k + 1] > runs[k]:
            segmentations.append(_read_rle(arrays["rle"][runs[k] : runs[k + 1]], size_hw))
        else:
            segmentations.append(polygons[objects[k] - objects[0] : objects[k + 1] - objects[0]] or None)
    return segmentations


def _read_rle(packed: Tensor, size_hw: tuple[int, int]) -> Segmentation:
    counts = packed.numpy().tobytes()
    if not fills(counts, size_hw[0] * size_hw[1]):
        raise UserError(_DAMAGED)
    return {"size": list(size_hw), "counts": counts}
