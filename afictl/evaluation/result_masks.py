"""Masks of COCO results, run lengths or polygons, as compressed run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from pycocotools import mask as coco_mask

from afictl.data.run_lengths import run_length_areas
from afictl.data.segmentation import as_polygons, box_outlines, mask_fault, outline_runs

Box: TypeAlias = tuple[float, float, float, float]


class ResultRuns(msgspec.Struct, gc=False):
    """Run-length mask of a result: ``size`` (H, W), and ``counts``, compressed or a list of runs."""

    size: tuple[int, int]
    counts: str | list[int]


ResultMask: TypeAlias = ResultRuns | list[list[float]] | UnsetType | None
"""Run lengths, polygons, an empty value, or an absent key."""


class InvalidMaskError(ValueError):
    """A mask that ``mask_fault`` describes."""


def parse_mask(value: object) -> ResultMask:
    """A parsed ``segmentation`` without fault as the value of a ``Result``."""
    if value is UNSET:
        return UNSET
    if not value or value != value:
        return None
    if isinstance(value, dict):
        counts = value["counts"]
        return ResultRuns(tuple(value["size"]), counts.decode("ascii") if isinstance(counts, bytes) else counts)
    return as_polygons(value)


def compress_masks(masks: Sequence[ResultMask], sizes_hw: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Compressed run lengths of masks; polygons are filled as by pycocotools.

    Args:
        masks: masks of n results.
        sizes_hw: (n,2) int64, sizes of their images.

    Returns:
        Run lengths, empty without a mask; and the areas (n,) int64 in pixels.

    Raises:
        InvalidMaskError: a mask of another size, runs that do not fill it, or a polygon with a fault.
    """
    counts = [_compress(mask, (height, width)) for mask, (height, width) in zip(masks, sizes_hw.tolist(), strict=True)]
    lengths = np.fromiter(map(len, counts), dtype=np.int64, count=len(counts))
    has_mask = lengths > 0
    areas = np.zeros(len(counts), dtype=np.int64)
    if has_mask.any():
        areas[has_mask] = run_length_areas(b"".join(counts), lengths[has_mask], sizes_hw[has_mask].prod(axis=1))
    if (areas < 0).any():
        raise InvalidMaskError
    return counts, areas


def _compress(mask: ResultMask, size_hw: tuple[int, int]) -> bytes:
    if not mask:
        return b""
    if isinstance(mask, list):
        if mask_fault(mask, size_hw):
            raise InvalidMaskError
        outline = [np.asarray(polygon) for polygon in mask if len(polygon) >= 6]  # others enclose no pixel
        return outline_runs([outline], size_hw, size_hw)[0]["counts"]
    if mask.size != size_hw:
        raise InvalidMaskError
    if isinstance(mask.counts, str):
        if not mask.counts:
            raise InvalidMaskError
        return mask.counts.encode("ascii")
    if sum(mask.counts) != size_hw[0] * size_hw[1] or min(mask.counts) < 0:
        raise InvalidMaskError
    runs: bytes = coco_mask.frPyObjects({"size": list(size_hw), "counts": mask.counts}, *size_hw)["counts"]
    return runs


def boxes_of(counts: Sequence[bytes], sizes_hw: np.ndarray) -> np.ndarray:
    """Bounding boxes (n,4) xywh of masks that are given as compressed run lengths."""
    runs = [{"size": size, "counts": packed} for packed, size in zip(counts, sizes_hw.tolist(), strict=True)]
    return coco_mask.toBbox(runs) if runs else np.zeros((0, 4))


def compress_boxes(xywh: np.ndarray, sizes_hw: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Compressed run lengths of boxes (n,4) xywh as masks, and their areas (n,) int64 in pixels."""
    sizes = [(height, width) for height, width in sizes_hw.tolist()]
    outlines = zip(box_outlines(xywh, sizes_hw), sizes, strict=True)
    counts = [outline_runs([[outline]], size, size)[0]["counts"] for outline, size in outlines]
    lengths = np.fromiter(map(len, counts), dtype=np.int64, count=len(counts))
    return counts, run_length_areas(b"".join(counts), lengths, sizes_hw.prod(axis=1))
