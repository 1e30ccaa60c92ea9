"""Notes on limits of the number of detections, where they cut the detections of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from afictl.data import Dataset

COCO_LIMIT = 100
"""Detections of one class on one image that COCO's metrics count, the best first."""


class DetectionSummary(NamedTuple):
    """Detection on the images of a dataset."""

    has_masks: bool
    limit: int | None
    """``detector.max_detections``; None for a module that is no ``Detector``."""
    images: int
    cut_images: int
    """Images with as many detections as the limit, which may have had more."""

    @property
    def note(self) -> str:
        """Note on the images that the limit cuts; empty without any."""
        if not self.cut_images:
            return ""
        return (
            f"note: {self.cut_images} of {self.images} images have {self.limit} detections, the limit "
            "detector.max_detections, which may have cut more"
        )


def objects_note(dataset: Dataset, limit: int) -> str:
    """Note on images of ``dataset`` with more objects than a detector's limit of detections; empty without any."""
    counts = dataset.arrays["object_ends"].diff()
    crowded = int((counts > limit).sum())
    if not crowded:
        return ""
    return (
        f"note: {crowded} of {len(dataset)} images of {dataset.annotation_file} have more than {limit} objects, up to "
        f"{int(counts.max())}, but detector.max_detections is {limit}: change it with --set to detect all"
    )


def images_cut_by_coco(images: np.ndarray, categories: np.ndarray) -> int:
    """Number of images with more detections of a class than COCO's metrics count.

    Args:
        images: (k,) position of the image of each detection.
        categories: (k,) position of its category.
    """
    stride = int(categories.max(initial=0)) + 1
    groups, counts = np.unique(images * stride + categories, return_counts=True)
    return len(np.unique(groups[counts > COCO_LIMIT] // stride))
