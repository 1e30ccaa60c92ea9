"""Check of masks, and of boxes and masks over a whole file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afictl.data.check_report import Location, SplitReport
from afictl.data.formats.coco_records import Record
from afictl.data.formats.coco_values import is_number, parse_flag
from afictl.data.mask_geometry import mask_boxes, mask_faults
from afictl.data.plausibility import describe_areas, describe_boxes, describe_masks, describe_unused_area, reach_outside
from afictl.data.segmentation import mask_fault
from afictl.data.segmentation_arrays import pack_segmentations

_FAULT_RULES = {2: "mask-empty", 3: "mask-far"}


def check_masks(
    objects: Sequence[Record], images: Mapping[int, Record], usable: np.ndarray, report: SplitReport
) -> None:
    """Add the faults of masks, and what the distribution of boxes and masks says about them, to ``report``.

    Args:
        objects: annotations without a structural fault.
        images: images by id.
        usable: (m,) bool, objects whose boxes training uses.
        report: report of the split.
    """
    sizes = np.array([_size_hw(images[record["image_id"]]) for record in objects], dtype=np.int64).reshape(-1, 2)
    segmentations: list[Any] = [record.get("segmentation") for record in objects]
    arrays: dict[str, Tensor] = {
        "ids": torch.zeros(len(objects)),
        "xywh": torch.from_numpy(boxes_of(objects)),
        **pack_segmentations(segmentations, sizes),
    }
    kinds = _kinds(arrays, segmentations)
    report.masks = dict(Counter(kinds))
    crowd = np.array([parse_flag(record.get("iscrowd")) for record in objects], dtype=bool)
    extents = mask_boxes(arrays, sizes)
    _check_distribution(objects, sizes, extents, ~crowd, report)
    has_masks = any(kind in ("polygons", "RLE") and not c for kind, c in zip(kinds, crowd.tolist(), strict=True))
    if objects and not has_masks:
        report.add("no-masks", Location(detail=f"{len(objects)} objects"))
    faults = mask_faults(arrays, sizes)
    outside = reach_outside(extents, sizes) & (faults == 0)
    for k, (record, kind) in enumerate(zip(objects, kinds, strict=True)):
        location = Location(images[record["image_id"]]["file_name"], record["id"])
        if kind == "malformed":
            report.add("mask-malformed", location._replace(detail=mask_fault(segmentations[k], _pair(sizes[k]))))
        elif kind == "polygons" and (fault := mask_fault(segmentations[k], _pair(sizes[k]))):
            report.add("mask-part-malformed", location._replace(detail=fault))
        elif kind == "absent" and has_masks and not crowd[k]:
            report.add("mask-missing", location)
        elif int(faults[k]) in _FAULT_RULES and usable[k]:
            detail = "" if faults[k] == 2 else f"mask {_rounded(extents[k])} (x1, y1, x2, y2), bbox {record['bbox']}"
            report.add(_FAULT_RULES[int(faults[k])], location._replace(detail=detail))
        elif outside[k]:
            report.add("mask-partly-outside", location._replace(detail=f"x1, y1, x2, y2 {_rounded(extents[k])}"))
        if kind == "polygons" and is_number(segmentations[k][0]):
            report.add("mask-flat", location)


def boxes_of(objects: Sequence[Record]) -> np.ndarray:
    """Boxes (m,4) float64 as in the file."""
    return np.array([record["bbox"] for record in objects], dtype=np.float64).reshape(-1, 4)


def _check_distribution(
    objects: Sequence[Record], sizes: np.ndarray, extents: np.ndarray, used: np.ndarray, report: SplitReport
) -> None:
    xywh = boxes_of(objects)
    annotated_areas = np.array([record.get("area") for record in objects], dtype=np.float64)
    areas = np.where(np.isnan(annotated_areas), xywh[:, 2] * xywh[:, 3], annotated_areas)
    boxes = describe_boxes(xywh[used], sizes[used], areas[used], extents[used])
    texts = {
        "boxes-implausible": boxes,
        "masks-implausible": "" if boxes else describe_masks(xywh[used], extents[used]),
        "areas-implausible": "" if boxes else describe_areas(xywh[used], annotated_areas[used]),
        "boxes-in-one-part": describe_unused_area(xywh[used], sizes[used]),
    }
    for rule, text in texts.items():
        if text:
            report.add(rule, Location(detail=text))


def _kinds(arrays: Mapping[str, Tensor], segmentations: Sequence[Any]) -> list[str]:
    """``polygons``, ``RLE``, ``absent`` or ``malformed`` of each object."""
    has_polygons, has_runs = (arrays[name].diff().gt(0).tolist() for name in ("object_polygons", "rle_ends"))
    return [
        "polygons" if polygons else "RLE" if runs else "absent" if not value or value != value else "malformed"
        for polygons, runs, value in zip(has_polygons, has_runs, segmentations, strict=True)
    ]


def _size_hw(image: Record) -> tuple[int, int]:
    return int(image["height"]), int(image["width"])


def _pair(size_hw: np.ndarray) -> tuple[int, int]:
    height, width = size_hw.tolist()
    return height, width


def _rounded(box: np.ndarray) -> list[float]:
    rounded: list[float] = box.round(2).tolist()
    return rounded
