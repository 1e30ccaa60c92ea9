"""Clipping of boxes, polygons and run lengths to the tiles of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from pycocotools import mask as coco_mask

from afictl.data.dataset import MIN_SIDE_PX
from afictl.data.segmentation import Segmentation
from afictl.data.tiles import Tile

_Mask: TypeAlias = list[np.ndarray] | np.ndarray
"""Polygons, each (p,2) in pixels; or a bitmap, uint8 (H,W)."""
_DECIMALS = 4
"""Of written coordinates: an offset that is subtracted leaves digits of rounding."""


class ObjectPart(NamedTuple):
    """Part of an object inside a tile, in pixels of the tile."""

    tile: int
    """Position of the tile."""
    xywh: list[float]
    visible: float
    """Fraction of the object inside the tile: of its mask, or of its box without one."""
    segmentation: list[list[float]] | dict[str, Any] | None
    """In COCO's forms."""


def object_parts(
    xywh: np.ndarray, segmentation: Segmentation | None, size_hw: tuple[int, int], tiles: Sequence[Tile]
) -> Iterator[ObjectPart]:
    """Yield the part of an object in each tile that contains some of it.

    The box of a part is the box of the object inside the tile; if the tile cuts the object, it is also limited to the
    extent of the mask inside the tile.

    Args:
        xywh: (4,) float64, finite; what is outside of the image does not count.
        segmentation: mask; one without area counts as absent.
        size_hw: of the image.
        tiles: of the image.
    """
    limits = np.array(tiles, dtype=np.float64)
    image = Tile(0, 0, size_hw[1], size_hw[0])
    box = _intersect(np.concatenate((xywh[:2], xywh[:2] + xywh[2:])), np.array(image))
    mask = None if segmentation is None else _clip(_decode(segmentation), image)
    area = 0.0 if mask is None else _area(mask)
    boxes = _intersect(box, limits)
    for k in np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE_PX).all(axis=1)).tolist():
        inside, offset = boxes[k], limits[k, :2]
        visible = float((inside[2:] - inside[:2]).prod() / (box[2:] - box[:2]).prod())
        part = None
        if mask is not None and area > 0:
            part = _clip(mask, tiles[k])
            visible = _area(part) / area
            if visible > 0 and (inside != box).any():
                narrowed = _intersect(inside, _extent(part, mask, tiles[k]))
                inside = narrowed if (narrowed[2:] - narrowed[:2] >= MIN_SIDE_PX).all() else inside
        if visible > 0:
            corner_and_size = np.concatenate((inside[:2] - offset, inside[2:] - inside[:2]))
            yield ObjectPart(
                k, corner_and_size.round(_DECIMALS).tolist(), visible, None if part is None else _encode(part)
            )


def _intersect(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Intersections of boxes xyxy, (4,) or (n,4); without one, a side is not positive."""
    corners = (np.maximum(boxes[..., :2], limits[..., :2]), np.minimum(boxes[..., 2:], limits[..., 2:]))
    return np.concatenate(corners, axis=-1)


def _decode(segmentation: Segmentation) -> _Mask:
    if isinstance(segmentation, dict):
        return np.asarray(coco_mask.decode(segmentation))
    return [polygon.reshape(-1, 2) for polygon in segmentation]


def _clip(mask: _Mask, tile: Tile) -> _Mask:
    """The mask inside a tile, in pixels of the tile."""
    if isinstance(mask, np.ndarray):
        return mask[tile.top : tile.bottom, tile.left : tile.right]
    clipped = (_clip_polygon(polygon, tile) - tile[:2] for polygon in mask)
    return [polygon for polygon in clipped if len(polygon) >= 3 and _polygon_area(polygon) > 0]


def _clip_polygon(points: np.ndarray, tile: Tile) -> np.ndarray:
    """A polygon (p,2) inside a tile, by the algorithm of Sutherland and Hodgman (1974).

    Parts that the tile separates are joined by edges along its border, which enclose nothing.
    """
    for k, limit in enumerate(tile):
        points = _clip_half_plane(points, k % 2, limit, 1 if k < 2 else -1)
    return points


def _clip_half_plane(points: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """The polygon where ``sign * (x - limit) >= 0`` for the coordinate x of ``axis``."""
    distances = sign * (points[:, axis] - limit)
    is_inside = distances >= 0
    if is_inside.all():
        return points
    crosses = is_inside != np.roll(is_inside, -1)
    steps = np.roll(points, -1, axis=0) - points
    fractions = np.divide(distances, -sign * steps[:, axis], out=np.zeros(len(points)), where=crosses)
    crossings = points + fractions[:, None] * steps
    crossings[:, axis] = limit
    candidates = np.stack((points, crossings), axis=1).reshape(-1, 2)
    return candidates[np.stack((is_inside, crosses), axis=1).ravel()]


def _area(mask: _Mask) -> float:
    return float(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else sum(map(_polygon_area, mask))


def _polygon_area(points: np.ndarray) -> float:
    """Enclosed area by the shoelace formula."""
    x, y = (points - points[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _extent(part: _Mask, mask: _Mask, tile: Tile) -> np.ndarray:
    """Bounding box (4,) xyxy, in pixels of the image, of ``part``, which is ``mask`` in a tile and not empty."""
    offset = np.array(tile[:2], dtype=np.float64)
    if isinstance(part, np.ndarray) or isinstance(mask, np.ndarray):
        rows, columns = (np.flatnonzero(np.any(part, axis=axis)) for axis in (1, 0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        return box + np.tile(offset, 2)
    size = np.array(tile[2:]) - offset
    corners = offset + size * np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    points = [corners[[any(_contains(polygon, corner) for polygon in mask) for corner in corners]]]
    for polygon in part:
        on_border = np.concatenate((polygon == 0, polygon == size), axis=1)
        leaves_border = ~(on_border & np.roll(on_border, -1, axis=0)).any(axis=1)
        # other points may be ends of edges that enclose nothing
        points.append(offset + polygon[leaves_border | np.roll(leaves_border, 1)])
    all_points = np.concatenate(points) if any(map(len, points)) else np.zeros((1, 2))
    return np.concatenate((all_points.min(axis=0), all_points.max(axis=0)))


def _contains(polygon: np.ndarray, point: np.ndarray) -> bool:
    """Whether a ray from the point crosses the edges of the polygon (p,2) an odd number of times."""
    starts, ends = polygon - point, np.roll(polygon, -1, axis=0) - point
    crosses = (starts[:, 1] > 0) != (ends[:, 1] > 0)
    starts, steps = starts[crosses], (ends - starts)[crosses]
    return bool(np.count_nonzero(starts[:, 0] - starts[:, 1] * steps[:, 0] / steps[:, 1] > 0) % 2)


def _encode(mask: _Mask) -> list[list[float]] | dict[str, Any]:
    if isinstance(mask, np.ndarray):
        runs = coco_mask.encode(np.asfortranarray(mask))
        return {"size": list(mask.shape), "counts": runs["counts"].decode()}
    return [polygon.ravel().round(_DECIMALS).tolist() for polygon in mask]
