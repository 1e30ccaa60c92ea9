"""Fingerprints of the annotations of a split: of all that training and evaluation use, and of its ids."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor

from afictl.data.dataset import Dataset
from afictl.data.hashing import tensor_digest

PREFIX = "content:"
"""Distinguishes the fingerprint of annotations from the digest of a file, which earlier versions recorded."""

_CONTENT_ARRAYS = (
    *("sizes_hw", "names", "name_ends", "object_ends", "xywh", "areas", "crowd"),
    *("polygon_points", "polygon_ends", "object_polygons", "rle", "rle_ends"),
)


def content_fingerprint(dataset: Dataset) -> str:
    """Fingerprint of images and objects, independent of their ids, of category ids and of the layout of the file.

    It depends on the order of the images and objects, as that determines the batches. The arrays of a split of COCO,
    some hundred megabytes, take less than a second.
    """
    classes = sorted(dataset.classes)
    position = {name: k for k, name in enumerate(classes)}
    by_name = torch.tensor([position[name] for name in dataset.classes])[dataset.arrays["labels"] - 1]
    arrays = [by_name, *(dataset.arrays[name] for name in _CONTENT_ARRAYS)]
    return PREFIX + _digest(classes, arrays)


def ids_fingerprint(dataset: Dataset) -> str:
    """Fingerprint of the ids to which COCO results refer: of each image file, and of each category by name."""
    categories = sorted(zip(dataset.classes, dataset.category_ids, strict=True))
    return _digest(categories, [dataset.arrays[name] for name in ("image_ids", "names", "name_ends")])


def _digest(values: Sequence[object], arrays: Sequence[Tensor]) -> str:
    digests = [tensor_digest(array.contiguous()) for array in arrays]
    return sha256(repr([values, digests]).encode()).hexdigest()
