"""Signs that the boxes or masks of a whole file are not what COCO's format says: x, y, width, height in pixels.

One object can lie anywhere; that most objects of a file reach out of their images, and none would if their boxes were
corners, is no chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from afictl.data.dataset import Dataset
from afictl.data.mask_geometry import box_ious, corners_of, mask_boxes
from afictl.errors import UserError

_MIN_FRACTIONS = 0.1
"""Share of boxes within 0..1 from which they are fractions of the image."""
_MIN_SIDE_PX = 8
"""Of images in which a box within 0..1 is implausible."""
_MAX_OUTSIDE = 0.1
"""Share of boxes that may reach out of their images, as truncated objects do, before other readings are tried."""
_MIN_INSIDE = 0.99
"""Share of boxes that another reading must put inside their images."""
_MIN_BOXES, _MIN_BOXES_OF_OTHER_IMAGES, _MIN_BOXES_OF_PART = 2, 10, 50
"""Fewer boxes say too little about their meaning, size of images, or part of the image."""
_MIN_IMPLAUSIBLE_AREAS = 0.9
"""Share of areas from which all are of another unit, or those of boxes of another size."""
_MARGIN = 0.05
"""Fraction of the image, and one pixel, by which a box may reach out of it."""
_MIN_MASK_IOU = 0.5
"""Of the bounding box of a mask and the box of its object; half of them must reach it."""

Reading = Callable[[np.ndarray], np.ndarray]

_CORNERS = "corners x1, y1, x2, y2"
_AXES_SWAPPED = "y, x, height, width"
"""Beside masks it cannot be known whether the axes of the boxes or of the masks are swapped."""
_READINGS: dict[str, Reading] = {
    _CORNERS: lambda boxes: boxes,
    "corners y1, x1, y2, x2": lambda boxes: boxes[:, [1, 0, 3, 2]],
    "centre x, y, width, height": lambda boxes: corners_of(boxes - np.tile(boxes[:, 2:] / 2, 2) * (1, 1, 0, 0)),
    _AXES_SWAPPED: lambda boxes: corners_of(boxes[:, [1, 0, 3, 2]]),
    "corners x1, x2, y1, y2": lambda boxes: boxes[:, [0, 2, 1, 3]],
}
"""Other meanings of four numbers, as functions to xyxy."""


class Implausibility(NamedTuple):
    """Descriptions of the values of a dataset that probably mean something else; empty for plausible ones.

    Masks are compared with boxes, and therefore described only where the boxes are plausible.
    """

    boxes: str
    masks: str = ""


def find_implausible(dataset: Dataset, masks: bool = True) -> Implausibility:
    """Look at the distribution of boxes, and with ``masks`` of masks, over the objects of a dataset."""
    used = ~dataset.arrays["crowd"].numpy()
    xywh, areas = (dataset.arrays[name].numpy()[used] for name in ("xywh", "areas"))
    sizes = dataset.object_sizes_hw
    if not masks:
        return Implausibility(describe_boxes(xywh, sizes[used], areas))
    extents = mask_boxes(dataset.arrays, sizes)[used]
    boxes = describe_boxes(xywh, sizes[used], areas, extents)
    return Implausibility(boxes, "" if boxes else describe_masks(xywh, extents))


def require_plausible(dataset: Dataset, masks: bool) -> None:
    """Refuse a dataset whose boxes, or with ``masks`` whose masks, mean something else than COCO's.

    Raises:
        UserError: names the file and the probable meaning.
    """
    implausibility = find_implausible(dataset, masks)
    if fault := implausibility.boxes or implausibility.masks:
        raise UserError(f"{dataset.annotation_file}: {fault}; 'afictl data check' lists the objects")


def describe_boxes(
    xywh: np.ndarray, sizes_hw: np.ndarray, areas: np.ndarray | None = None, masks: np.ndarray | None = None
) -> str:
    """Probable meaning of boxes that are not x, y, width, height in pixels; empty for plausible boxes.

    Args:
        xywh: (n,4) float64, boxes as in the file.
        sizes_hw: (n,2), sizes of their images.
        areas: (n,) annotated areas, which may reveal what the boxes are.
        masks: (n,4) xyxy, bounding boxes of masks, NaN without one, which may reveal it too.
    """
    is_box = np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)
    xywh, sizes_wh = xywh[is_box], sizes_hw[is_box, ::-1].astype(np.float64)
    if not len(xywh):
        return ""
    fractions = _are_fractions(xywh) & (sizes_wh >= _MIN_SIDE_PX).all(axis=1)
    if fractions.mean() >= _MIN_FRACTIONS:
        return f"{_count(fractions)} boxes look like fractions of the image (0..1), not pixels"
    if len(xywh) < _MIN_BOXES:
        return ""
    is_ordered = (xywh[:, 2:] > xywh[:, :2]).all(axis=1).mean() >= _MIN_INSIDE
    if is_ordered and areas is not None and _match_areas(xywh, areas[is_box]):
        return f"boxes look like {_CORNERS}, not x, y, width, height: 'area' is that of corners"
    if masks is not None:
        for name, reading in _READINGS.items():
            if name != _AXES_SWAPPED and _match_masks(xywh, reading(xywh), masks[is_box]):
                return f"boxes look like {name}, not x, y, width, height: so they enclose their masks"
    return _describe_boxes_outside(xywh, sizes_wh)


def _describe_boxes_outside(xywh: np.ndarray, sizes_wh: np.ndarray) -> str:
    outside = ~_lie_inside(corners_of(xywh), sizes_wh)
    if outside.mean() <= _MAX_OUTSIDE:
        return ""
    for name, reading in _READINGS.items():
        if _lie_inside(reading(xywh), sizes_wh).mean() >= _MIN_INSIDE:
            return f"boxes look like {name}, not x, y, width, height: {_count(outside)} reach out of their images"
    if len(xywh) >= _MIN_BOXES_OF_OTHER_IMAGES and outside.mean() >= 0.5:
        return f"{_count(outside)} boxes reach out of their images: they look like those of images of another size"
    return ""


def describe_areas(xywh: np.ndarray, areas: np.ndarray) -> str:
    """Probable fault of annotated areas that are not square pixels of an object in its box; empty for plausible ones.

    Args:
        xywh: (n,4) float64, boxes as in the file.
        areas: (n,) annotated areas, NaN without one.
    """
    rows = np.isfinite(areas) & np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] >= _MIN_SIDE_PX).all(axis=1)
    areas, boxes = areas[rows], xywh[rows, 2:].prod(axis=1)
    if len(areas) < _MIN_BOXES:
        return ""
    tiny, large = areas <= 1, areas > (1 + _MARGIN) * boxes + 1
    if tiny.mean() >= _MIN_IMPLAUSIBLE_AREAS:
        meaning = "are 0" if not areas[tiny].any() else "look like fractions of the image (0..1), not pixels"
        return f"{_count(tiny)} areas {meaning}"
    if large.mean() >= _MIN_IMPLAUSIBLE_AREAS:
        return f"{_count(large)} areas are larger than their boxes"
    return ""


def describe_unused_area(xywh: np.ndarray, sizes_hw: np.ndarray) -> str:
    """Description of boxes that all lie in the upper left part of their images; empty where they do not.

    Args:
        xywh: (n,4) float64, boxes as in the file.
        sizes_hw: (n,2), sizes of their images.
    """
    is_box = np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)
    if is_box.sum() < _MIN_BOXES_OF_PART or _are_fractions(xywh[is_box]).all():
        return ""
    ends = corners_of(xywh[is_box])[:, 2:]
    part = float((ends / sizes_hw[is_box, ::-1]).max())
    if part > 0.5:
        return ""
    percent = ends.max() <= 100 + 100 * _MARGIN
    meaning = "percent of the image, or those of smaller images" if percent else "those of smaller images"
    return f"all {len(ends)} boxes lie in the upper left {100 * part:.0f} % of their images: they may be {meaning}"


def reach_outside(xyxy: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """Whether each box (n,4) reaches out of its image by more than a margin; not where it is NaN."""
    sizes_wh = sizes_hw[:, ::-1]
    margin = 1 + _MARGIN * sizes_wh
    return np.asarray(((xyxy[:, :2] < -margin) | (xyxy[:, 2:] > sizes_wh + margin)).any(axis=1))


def _are_fractions(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(((boxes >= 0) & (boxes <= 1 + _MARGIN)).all(axis=1))


def _lie_inside(xyxy: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Whether each box (n,4) has an area and lies in its image, up to a margin."""
    return np.asarray((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1) & ~reach_outside(xyxy, sizes_wh[:, ::-1]))


def _match_areas(boxes: np.ndarray, areas: np.ndarray) -> bool:
    """Whether annotated areas are those of the boxes as corners, and not of their width and height."""
    by_corners, by_size = (np.abs(areas - sides.prod(axis=1)) <= 1 + 0.01 * areas for sides in _sides(boxes))
    return bool((by_corners & ~by_size).mean() >= 0.9)


def _sides(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sides (n,2) of boxes as corners, and as x, y, width, height."""
    return boxes[:, 2:] - boxes[:, :2], boxes[:, 2:]


def _match_masks(xywh: np.ndarray, reading: np.ndarray, masks: np.ndarray) -> bool:
    """Whether masks of these bounding boxes lie in ``reading`` (n,4) xyxy, and not in the boxes as in the file."""
    rows = np.isfinite(masks).all(axis=1)
    if rows.sum() < _MIN_BOXES:
        return False
    by_reading, by_size = (_share_in_boxes(masks[rows], b[rows]) for b in (reading, corners_of(xywh)))
    return by_reading >= 0.9 and by_size <= 0.5


def _share_in_boxes(masks: np.ndarray, xyxy: np.ndarray) -> float:
    return float((box_ious(masks, xyxy) >= _MIN_MASK_IOU).mean())


def describe_masks(xywh: np.ndarray, masks: np.ndarray) -> str:
    """Probable fault of masks that do not lie in the boxes of their objects; empty for plausible masks.

    Args:
        xywh: (n,4) float64, boxes as in the file.
        masks: (n,4) xyxy, bounding boxes of masks, NaN without one.
    """
    rows = np.isfinite(masks).all(axis=1) & np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)
    masks, boxes = masks[rows], corners_of(xywh[rows])
    if len(masks) < _MIN_BOXES or _share_in_boxes(masks, boxes) >= 0.5:
        return ""
    is_far = box_ious(masks, boxes) < _MIN_MASK_IOU
    fault = f"{_count(is_far)} masks do not lie in their boxes"
    if _are_fractions(masks).mean() >= 0.9:
        return f"{fault}: polygons look like fractions of the image (0..1), not pixels"
    if _share_in_boxes(masks[:, [1, 0, 3, 2]], boxes) >= 0.9:
        return f"{fault}: either the boxes or the polygons look like y, x instead of x, y"
    box_sides, mask_sides = (corners[:, 2:] - corners[:, :2] for corners in (boxes, masks))
    scale = np.median(mask_sides / box_sides, axis=0)
    if (scale > 0).all() and _share_in_boxes(masks / np.tile(scale, 2), boxes) >= 0.9:
        x, y = scale.tolist()
        factor = f"{x:.2g}" if math.isclose(x, y, rel_tol=0.05) else f"{x:.2g} x {y:.2g}"
        return f"{fault}: polygons are those of an image {factor} times as large as that of the boxes"
    return fault if len(masks) >= _MIN_BOXES_OF_OTHER_IMAGES and (box_ious(masks, boxes) < 0.1).mean() >= 0.5 else ""


def _count(selection: np.ndarray) -> str:
    return f"{int(selection.sum())} of {len(selection)}"
