"""Segmentation of one object: validation, and rasterization to a bitmap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any, TypeAlias, TypedDict

import numpy as np
from pycocotools import mask as coco_mask

from afictl.data.formats.coco_values import is_number, shorten
from afictl.data.run_lengths import run_length_areas


class Rle(TypedDict):
    """Compressed run lengths, as pycocotools takes them."""

    size: list[int]
    """[H, W]."""
    counts: bytes


Segmentation: TypeAlias = list[np.ndarray] | Rle
"""Polygons, each a flat float array ``x0 y0 x1 y1 ...`` in pixels; or a compressed RLE."""

COORDINATE_LIMIT_PX = 1e6
"""pycocotools visits every pixel of an outline, so that a wild coordinate takes all memory."""


def normalize_segmentation(value: object, size_hw: tuple[int, int]) -> Segmentation | None:
    """An annotation's segmentation as polygons or compressed RLE; None where absent, empty or malformed.

    A polygon needs three points and becomes float64; a flat list of numbers is one polygon. An RLE must have the size
    of its image and runs that fill it: pycocotools reads a four-number polygon as a box and does not check runs
    against the size.
    """
    if isinstance(value, Mapping):
        return _normalize_rle(value, size_hw)
    polygons = as_polygons(value)
    if polygons is None:
        return None
    return [np.asarray(p, dtype=np.float64) for p in polygons if _is_polygon(p) and len(p) >= 6] or None


def as_polygons(value: object) -> list[Any] | None:
    """A list of polygons, or a flat list of numbers as the one polygon that it is; None for other values.

    The polygons themselves are not checked.
    """
    if not isinstance(value, list) or not value:
        return None
    return [value] if all(map(is_number, value)) else value


def mask_fault(value: object, size_hw: tuple[int, int]) -> str:
    """Description of the fault of a parsed ``segmentation``; empty for a valid, empty or absent one."""
    height, width = size_hw
    if not value or value != value:  # pandas writes an absent value as NaN, which differs from itself
        return ""
    if isinstance(value, dict):
        return "" if _normalize_rle(value, size_hw) else f"'segmentation' is {_describe_rle(value, size_hw)}"
    polygons = as_polygons(value)
    if polygons is None:
        return (
            f"'segmentation' is {shorten(value)}, neither a run-length mask nor polygons [[x1, y1, x2, y2, ...], ...]"
        )
    if _are_points(polygons):
        return "'segmentation' has points as pairs [x, y]; write each polygon as one flat list [x1, y1, x2, y2, ...]"
    if not all(map(_is_polygon, polygons)):
        return f"'segmentation' has a polygon that is not pairs of x and y in pixels of its {width}x{height} image"
    if max(map(len, polygons)) < 6:
        return "'segmentation' has no polygon of at least three points"
    return ""


def _are_points(polygons: list[Any]) -> bool:
    """Whether polygons are lists of [x, y] instead of flat lists, or there is one that is such a list itself."""
    points = (
        polygons[0] if isinstance(polygons[0], list) and all(isinstance(p, list) for p in polygons[0]) else polygons
    )
    return len(points) >= 3 and all(isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points)


def _is_polygon(value: object) -> bool:
    """Whether it is a flat list of pairs of coordinates; text is none, also of a number."""
    return isinstance(value, list) and len(value) % 2 == 0 and all(map(_is_coordinate, value))


def _is_coordinate(value: object) -> bool:
    return is_number(value) and math.isfinite(value) and abs(value) < COORDINATE_LIMIT_PX


def _normalize_rle(value: Mapping[str, Any], size_hw: tuple[int, int]) -> Rle | None:
    counts, size = value.get("counts"), value.get("size")
    if not isinstance(size, list | tuple) or tuple(size) != tuple(size_hw) or not counts:
        return None
    if isinstance(counts, str | bytes):
        packed = counts.encode() if isinstance(counts, str) else counts
        return {"size": list(size_hw), "counts": packed} if fills(packed, size_hw[0] * size_hw[1]) else None
    try:
        if sum(counts) != size_hw[0] * size_hw[1] or min(counts) < 0:
            return None
        rle: Rle = coco_mask.frPyObjects({"size": list(size_hw), "counts": counts}, *size_hw)
        return rle
    except (TypeError, ValueError):
        return None


def _describe_rle(value: Mapping[str, Any], size_hw: tuple[int, int]) -> str:
    """Why a mapping is no run-length mask of an image of ``size_hw``."""
    size, counts = value.get("size"), value.get("counts")
    fault = f"not a run-length mask of the size of its image, [height, width] {[*size_hw]}"
    if size != [*size_hw]:
        return f"{fault}: its 'size' is {shorten(size)}"
    if isinstance(counts, str) and counts.startswith(("b'", 'b"')):
        return f"{fault}: its 'counts' is the text b'...' of Python's bytes, which were not decoded"
    return f"{fault}: the runs in its 'counts' do not fill that size"


def fills(packed: bytes, pixels: int) -> bool:
    """Whether compressed run lengths are valid and sum to ``pixels``."""
    return bool(run_length_areas(packed, np.array([len(packed)]), np.array([pixels]))[0] >= 0)


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
    return np.ascontiguousarray(coco_mask.decode(outline_runs([segmentation], from_hw, to_hw, flip)[0]))


def outline_runs(
    outlines: Sequence[list[np.ndarray]], from_hw: tuple[int, int], to_hw: tuple[int, int], flip: bool = False
) -> list[Rle]:
    """The compressed RLEs of several objects, each of polygons given on ``from_hw`` and filled at ``to_hw``."""
    polygons = list(chain.from_iterable(outlines))
    if not polygons:
        return []
    points = np.concatenate(polygons).reshape(-1, 2) * np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    if flip:
        points[:, 0] = to_hw[1] - points[:, 0]
    ends = list(accumulate(map(len, polygons), initial=0))
    runs = iter(coco_mask.frPyObjects([points.ravel()[a:b] for a, b in pairwise(ends)], *to_hw))
    parts = (list(islice(runs, len(outline))) for outline in outlines)
    return [polygon_runs[0] if len(polygon_runs) == 1 else coco_mask.merge(polygon_runs) for polygon_runs in parts]


def box_outlines(xywh: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """Polygons (n,8) of boxes (n,4), clipped to images of ``sizes_hw`` (n,2).

    Clipped because pycocotools visits every pixel of an outline.
    """
    corners = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
    return np.ascontiguousarray(corners.clip(0, np.tile(sizes_hw[:, ::-1], 2))[:, [0, 1, 0, 3, 2, 3, 2, 1]])


def _nearest(size: int, new_size: int) -> np.ndarray:
    centres = (np.arange(new_size) + 0.5) * (size / new_size)
    return np.minimum(centres.astype(np.int64), size - 1)
