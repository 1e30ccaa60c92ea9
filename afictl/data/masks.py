"""Segmentations as flat arrays, and the drawing of one of them as a bitmap.

An index of 860,000 objects must not hold Python lists: every worker process that touches them copies their
pages (pytorch/pytorch#13246). Polygons are one float array with offsets, compressed RLEs one byte array.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl.data.run_lengths import run_length_areas

Segmentation = list[np.ndarray] | dict[str, Any]
"""Polygons, each a flat float array ``x0 y0 x1 y1 ...`` in pixels; or a compressed RLE dict."""

_FARTHEST = 1e6
"""Pixels. pycocotools walks along every pixel of an outline, so that a wild coordinate takes all memory."""


def normalize_segmentation(value: Any, size_hw: tuple[int, int]) -> Segmentation | None:
    """An annotation's segmentation as polygons or compressed RLE; None where absent, empty or malformed.

    A polygon needs three points and becomes float64. An RLE must have the size of its image and runs that fill
    it: pycocotools reads a four-number polygon as a box and does not check runs against the size.
    """
    if isinstance(value, Mapping):
        return _normalize_rle(value, size_hw)
    if not isinstance(value, list):
        return None
    polygons = [p for p in value if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    try:
        points = [np.asarray(polygon, dtype=np.float64) for polygon in polygons]
    except (TypeError, ValueError):
        return None
    return [p for p in points if p.ndim == 1 and bool((np.abs(p) < _FARTHEST).all())] or None


def _normalize_rle(value: Mapping[str, Any], size_hw: tuple[int, int]) -> dict[str, Any] | None:
    counts, size = value.get("counts"), value.get("size")
    if not isinstance(size, list | tuple) or tuple(size) != tuple(size_hw) or not counts:
        return None
    if isinstance(counts, str | bytes):
        packed = counts.encode() if isinstance(counts, str) else counts
        return {"size": list(size_hw), "counts": packed} if fills(packed, size_hw[0] * size_hw[1]) else None
    try:
        if sum(counts) != size_hw[0] * size_hw[1] or min(counts) < 0:
            return None
        return dict(coco_mask.frPyObjects({"size": list(size_hw), "counts": counts}, *size_hw))
    except (TypeError, ValueError):
        return None


def fills(packed: bytes, pixels: int) -> bool:
    """Whether compressed run lengths are readable and make up ``pixels``."""
    return bool(run_length_areas([packed], np.array([pixels]))[0] >= 0)


class SegmentationWriter:
    """Collects segmentations, object by object, into flat arrays."""

    def __init__(self) -> None:
        self._points, self._polygon_ends, self._object_ends = array("f"), array("q", [0]), array("q", [0])
        self._rle, self._rle_ends = bytearray(), array("q", [0])

    def add(self, segmentation: Segmentation | None) -> None:
        """Append the next object's segmentation."""
        if isinstance(segmentation, dict):
            self._rle += segmentation["counts"]
        for polygon in segmentation if isinstance(segmentation, list) else ():
            self._points.frombytes(polygon.astype(np.float32).tobytes())
            self._polygon_ends.append(len(self._points))
        self._object_ends.append(len(self._polygon_ends) - 1)
        self._rle_ends.append(len(self._rle))

    def arrays(self) -> dict[str, Tensor]:
        """The flat arrays that ``read_segmentation`` and ``has_segmentation`` read."""
        return {
            "polygon_points": torch.from_numpy(np.array(self._points, dtype=np.float32)),
            "polygon_ends": torch.from_numpy(np.array(self._polygon_ends, dtype=np.int64)),
            "object_polygons": torch.from_numpy(np.array(self._object_ends, dtype=np.int64)),
            "rle": torch.from_numpy(np.frombuffer(bytes(self._rle), dtype=np.uint8).copy()),
            "rle_ends": torch.from_numpy(np.array(self._rle_ends, dtype=np.int64)),
        }


def has_segmentation(arrays: Mapping[str, Tensor], start: int = 0, end: int | None = None) -> Tensor:
    """Bool, one for each object from ``start`` to before ``end``."""
    ends = slice(start, None if end is None else end + 1)
    return (arrays["object_polygons"][ends].diff() > 0) | (arrays["rle_ends"][ends].diff() > 0)


def read_segmentation(arrays: Mapping[str, Tensor], k: int, size_hw: tuple[int, int]) -> Segmentation | None:
    """The segmentation of object ``k``, on an image of ``size_hw``."""
    start, end = arrays["rle_ends"][k : k + 2].tolist()
    if end > start:
        return {"size": list(size_hw), "counts": arrays["rle"][start:end].numpy().tobytes()}
    first, last = arrays["object_polygons"][k : k + 2].tolist()
    ends = arrays["polygon_ends"][first : last + 1].tolist()
    points = arrays["polygon_points"]
    return [points[a:b].numpy() for a, b in pairwise(ends)] or None


def draw_segmentation(
    segmentation: Segmentation, from_hw: tuple[int, int], to_hw: tuple[int, int], flip: bool = False
) -> np.ndarray:
    """The bitmap, uint8 (H,W) of 0 and 1, of a segmentation given on ``from_hw``, drawn at ``to_hw``.

    Polygons are scaled first and filled at the final size; an RLE is decoded and resized by nearest pixel.
    """
    if isinstance(segmentation, dict):
        rows, columns = (_nearest(a, b) for a, b in zip(from_hw, to_hw, strict=True))
        bitmap = coco_mask.decode(segmentation)[rows[:, None], columns]
        return np.ascontiguousarray(bitmap[:, ::-1]) if flip else bitmap
    scale = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    polygons = [polygon.reshape(-1, 2) * scale for polygon in segmentation]
    if flip:
        polygons = [np.stack((to_hw[1] - p[:, 0], p[:, 1]), axis=1) for p in polygons]
    runs = coco_mask.frPyObjects([p.ravel() for p in polygons], *to_hw)
    return np.ascontiguousarray(coco_mask.decode(coco_mask.merge(runs)))


def _nearest(size: int, new_size: int) -> np.ndarray:
    centres = (np.arange(new_size) + 0.5) * (size / new_size)
    return np.minimum(centres.astype(np.int64), size - 1)
