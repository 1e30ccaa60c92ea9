"""Columns of an annotation file in file order, as every format's reader gives them, and the arrays made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from afictl.data.index_file import IndexContents
from afictl.data.segmentation_arrays import pack_segmentations


@dataclass(frozen=True)
class Annotations:
    """n images and m objects in file order, with the values of the file."""

    classes: tuple[str, ...]
    """In the order of ``category_ids``."""
    category_ids: tuple[int, ...]
    """Ascending."""
    image_ids: np.ndarray
    """(n,) int64."""
    file_names: list[str]
    sizes_hw: np.ndarray
    """(n,2) int64, pixels."""
    ids: np.ndarray
    """(m,) int64."""
    image_index: np.ndarray
    """(m,) int64, position of each object's image."""
    labels: np.ndarray
    """(m,) int64, 1..K in the order of ``classes``."""
    xywh: np.ndarray
    """(m,4) float64, pixels."""
    areas: np.ndarray
    """(m,) float64, square pixels; NaN where the file has none."""
    crowd: np.ndarray
    """(m,) bool."""
    ignore: np.ndarray
    """(m,) bool, flag of objects that training leaves out."""
    segmentations: Sequence[object]
    """In COCO's forms, parsed or as ``msgspec.Raw``; None where absent."""


def pack_annotations(annotations: Annotations) -> IndexContents:
    """Sort the objects by image and return the arrays of a ``Dataset``."""
    order = np.argsort(annotations.image_index, kind="stable")
    image_index = annotations.image_index[order]
    xywh, areas = annotations.xywh[order], annotations.areas[order]
    names = [name.encode() for name in annotations.file_names]
    columns = {
        "image_ids": annotations.image_ids,
        "sizes_hw": annotations.sizes_hw,
        "names": np.frombuffer(b"".join(names), dtype=np.uint8).copy(),
        "name_ends": np.cumsum([0, *map(len, names)]),
        "object_ends": np.searchsorted(image_index, np.arange(len(names) + 1)),
        "ids": annotations.ids[order],
        "labels": annotations.labels[order],
        "xywh": xywh,
        "areas": np.where(np.isnan(areas), xywh[:, 2] * xywh[:, 3], areas),
        "crowd": annotations.crowd[order],
        "ignore": annotations.ignore[order],
    }
    arrays = {name: torch.from_numpy(values) for name, values in columns.items()}
    segmentations = [annotations.segmentations[k] for k in order.tolist()]
    arrays |= pack_segmentations(segmentations, annotations.sizes_hw[image_index])
    return IndexContents(annotations.classes, annotations.category_ids, arrays)
