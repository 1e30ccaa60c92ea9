"""Extent of the masks of a dataset, and masks that training cannot use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl.data.run_lengths import run_length_areas
from afictl.data.segmentation import COORDINATE_LIMIT_PX, outline_runs

MASK_FAULTS = ("usable", "absent", "without a pixel", "far from the box")
"""Why a mask is no target of training, by the value of ``mask_faults``; 0: it is one."""

_CHUNK_OBJECTS = 2**15
"""Objects whose temporary arrays are in memory at a time."""
_MIN_IOU = 0.1
"""Of the bounding box of a mask and the box of its object."""
_THIN_PX = 2.0
"""Polygons of less width, height or area may enclose no pixel; others are not drawn."""


def mask_boxes(arrays: Mapping[str, Tensor], sizes_hw: np.ndarray) -> np.ndarray:
    """Bounding boxes of all masks of a dataset: of the points of polygons, or of the pixels of run lengths.

    Args:
        arrays: see ``Dataset``.
        sizes_hw: (m,2) int64, size of the image of each object.

    Returns:
        (m,4) float64 xyxy; NaN without a mask.
    """
    boxes = [_boxes(chunk, sizes_hw[rows]) for chunk, rows in _chunks(arrays)]
    return np.concatenate(boxes) if boxes else np.zeros((0, 4))


def mask_faults(arrays: Mapping[str, Tensor], sizes_hw: np.ndarray) -> np.ndarray:
    """Whether training can use the masks of a dataset, uint8 (m,): positions in ``MASK_FAULTS``; see ``mask_boxes``."""
    xyxy = corners_of(arrays["xywh"].numpy())
    faults = np.ones(len(xyxy), dtype=np.uint8)
    for chunk, rows in _chunks(arrays):
        boxes = _boxes(chunk, sizes_hw[rows])
        is_far = box_ious(boxes, xyxy[rows]) < _MIN_IOU  # NaN is not
        faults[rows] = np.where(chunk.has_mask, np.where(is_far, 3, 0), 1)
        faults[rows][_empty_masks(chunk, boxes, sizes_hw[rows])] = 2
    return faults


def box_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (n,) of pairs of boxes (n,4) xyxy in pixels, each enlarged by half a pixel so that thin ones have an area."""
    margin = np.array([-0.5, -0.5, 0.5, 0.5])
    first, second = first + margin, second + margin
    overlap = (np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])).clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (first, second)]
    return np.asarray(overlap / np.maximum(areas[0] + areas[1] - overlap, 1e-9))


def corners_of(xywh: np.ndarray) -> np.ndarray:
    """Boxes (n,4) xywh as xyxy."""
    return np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)


class _Chunk(NamedTuple):
    """Masks of n consecutive objects."""

    points: np.ndarray
    """(p,2) of all polygons."""
    polygons: np.ndarray
    """Ends of the polygons in ``points``, with a leading 0."""
    objects: np.ndarray
    """(n+1,) ends of the objects in ``polygons``, with a leading 0."""
    packed: bytes
    """Concatenated run lengths."""
    runs: np.ndarray
    """(n+1,) ends of the objects in ``packed``, with a leading 0."""

    @property
    def has_mask(self) -> np.ndarray:
        return np.asarray((np.diff(self.objects) > 0) | (np.diff(self.runs) > 0))


def _chunks(arrays: Mapping[str, Tensor]) -> Iterator[tuple[_Chunk, slice]]:
    names = ("polygon_points", "polygon_ends", "object_polygons", "rle", "rle_ends")
    points, polygon_ends, object_ends, rle, rle_ends = (arrays[name].numpy() for name in names)
    for start in range(0, len(arrays["ids"]), _CHUNK_OBJECTS):
        rows = slice(start, min(start + _CHUNK_OBJECTS, len(arrays["ids"])))
        objects, runs = (ends[rows.start : rows.stop + 1] for ends in (object_ends, rle_ends))
        polygons = polygon_ends[objects[0] : objects[-1] + 1]
        chunk = _Chunk(
            points[polygons[0] : polygons[-1]].reshape(-1, 2),
            (polygons - polygons[0]) // 2,
            objects - objects[0],
            rle[runs[0] : runs[-1]].tobytes(),
            runs - runs[0],
        )
        yield chunk, rows


def _boxes(chunk: _Chunk, sizes_hw: np.ndarray) -> np.ndarray:
    boxes = np.full((len(sizes_hw), 4), np.nan)
    rows = np.flatnonzero(np.diff(chunk.objects))
    if len(rows):
        starts = chunk.polygons[chunk.objects[:-1][rows]]
        boxes[rows, :2] = np.minimum.reduceat(chunk.points, starts)
        boxes[rows, 2:] = np.maximum.reduceat(chunk.points, starts)
    rows, areas = _run_length_areas(chunk, sizes_hw)
    rows = rows[areas > 0]
    if len(rows):
        runs = [{"size": sizes_hw[k].tolist(), "counts": chunk.packed[chunk.runs[k] : chunk.runs[k + 1]]} for k in rows]
        boxes[rows] = corners_of(coco_mask.toBbox(runs))
    return boxes


def _run_length_areas(chunk: _Chunk, sizes_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects with run lengths, and the areas of these; -1 for invalid ones of a damaged index, which reading names."""
    lengths = np.diff(chunk.runs)
    rows = np.flatnonzero(lengths)
    return rows, run_length_areas(chunk.packed, lengths[rows], sizes_hw[rows].prod(axis=1))


def _empty_masks(chunk: _Chunk, boxes: np.ndarray, sizes_hw: np.ndarray) -> list[int]:
    """The objects whose masks have no pixel: run lengths, and polygons that are thin or outside the image."""
    rows, areas = _run_length_areas(chunk, sizes_hw)
    inside = np.clip(boxes.reshape(-1, 2, 2), 0, sizes_hw[:, None, ::-1])
    is_thin = ((inside[:, 1] - inside[:, 0]) < _THIN_PX).any(axis=1) | (_polygon_areas(chunk) < _THIN_PX)
    is_thin &= (np.diff(chunk.objects) > 0) & (np.abs(boxes) < COORDINATE_LIMIT_PX).all(axis=1)
    empty = rows[areas == 0].tolist()
    for k in np.flatnonzero(is_thin).tolist():
        polygons = range(chunk.objects[k], chunk.objects[k + 1])
        outline = [chunk.points[chunk.polygons[i] : chunk.polygons[i + 1]].ravel() for i in polygons]
        size = (int(sizes_hw[k, 0]), int(sizes_hw[k, 1]))
        if not coco_mask.area(outline_runs([outline], size, size)[0]):
            empty.append(k)
    return empty


def _polygon_areas(chunk: _Chunk) -> np.ndarray:
    """Sum (n,) of the areas that the polygons of each object enclose, by the shoelace formula."""
    points, ends = chunk.points, chunk.polygons
    following = np.roll(points, -1, axis=0)
    following[ends[1:] - 1] = points[ends[:-1]]
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    areas = np.abs(np.add.reduceat(cross, ends[:-1])) / 2 if len(ends) > 1 else np.zeros(0)
    return np.diff(np.concatenate(([0.0], areas.cumsum()))[chunk.objects])
