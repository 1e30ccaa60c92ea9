"""Ground truth of a dataset as columns, sorted by image, for both evaluators."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from afictl.data.dataset import Dataset
from afictl.data.formats.coco import load_ground_truth_file
from afictl.data.segmentation import box_outlines, outline_runs
from afictl.data.segmentation_arrays import has_segmentation, read_segmentations
from afictl.errors import UserError
from afictl.evaluation.mask_file import MaskFile


@dataclass(frozen=True)
class GroundTruth:
    """n images sorted by id, and m objects sorted by image, then in the order of the file."""

    dataset: Dataset
    image_ids: np.ndarray
    """(n,) int64."""
    sizes_hw: np.ndarray
    """(n,2) int64."""
    category_ids: tuple[int, ...]
    classes: tuple[str, ...]
    """Class names, in the order of ``category_ids``."""
    rows: np.ndarray
    """(m,) int64, position of each object in ``dataset``."""
    images: np.ndarray
    """(m,) int64, position of each object's image."""
    categories: np.ndarray
    """(m,) int64, position of each object's category."""
    boxes: np.ndarray
    """(m,4) float64 xywh as in the file."""
    areas: np.ndarray
    """(m,) float64, pixels; the area of the box if the file has none."""
    crowd: np.ndarray
    """(m,) bool, regions to ignore."""

    def objects_of(self, first: int, last: int) -> slice:
        """The objects of the images from ``first`` to before ``last``."""
        return slice(*np.searchsorted(self.images, [first, last]).tolist())


@dataclass(frozen=True)
class GroundTruthMasks:
    """Masks of the objects, and the objects that mask metrics ignore.

    Masks are valid under the same rules as in training. In a dataset with masks for only some objects, the others are
    ignored like crowds: neither missed objects nor false detections are counted there.
    """

    masks: MaskFile
    crowd: np.ndarray
    """(m,) bool, crowds and objects without a mask."""


def ground_truth_of(source: Dataset | Path, image_ids: Collection[int] | None) -> GroundTruth:
    """Read the ground truth of a dataset; objects without a finite box are dropped.

    Args:
        source: dataset, or annotation file, of which objects of an unknown image or category are dropped too.
        image_ids: ids of the images to evaluate; None: all.

    Raises:
        UserError: a file that cannot be read, no images, or a fault in its images or categories.
    """
    dataset = source if isinstance(source, Dataset) else load_ground_truth_file(source)
    all_ids, xywh, labels, areas, crowd, object_ends = (
        dataset.arrays[name].numpy() for name in ("image_ids", "xywh", "labels", "areas", "crowd", "object_ends")
    )
    image_order = np.argsort(all_ids, kind="stable")
    if image_ids is not None:
        image_order = image_order[np.isin(all_ids[image_order], list(image_ids))]
    if not len(image_order):
        raise UserError(f"annotation file {dataset.annotation_file}: no images to evaluate")
    starts, counts = object_ends[:-1][image_order], np.diff(object_ends)[image_order]
    images = np.repeat(np.arange(len(image_order)), counts)
    rows = np.arange(len(images)) + np.repeat(starts - (counts.cumsum() - counts), counts)
    is_finite = np.isfinite(xywh[rows]).all(axis=1)
    rows, images = rows[is_finite], images[is_finite]
    categories = np.argsort(dataset.category_ids, kind="stable")
    return GroundTruth(
        dataset=dataset,
        image_ids=all_ids[image_order],
        sizes_hw=dataset.sizes_hw[image_order],
        category_ids=tuple(dataset.category_ids[k] for k in categories),
        classes=tuple(dataset.classes[k] for k in categories),
        rows=rows,
        images=images,
        categories=np.argsort(categories)[labels[rows] - 1],
        boxes=xywh[rows],
        areas=areas[rows],
        crowd=crowd[rows],
    )


def masks_of(ground_truth: GroundTruth) -> GroundTruthMasks | None:
    """Masks of the objects; None if no object has one."""
    missing = ~has_segmentation(ground_truth.dataset.arrays).numpy()[ground_truth.rows]
    if missing.all():
        return None
    masks = MaskFile()
    for image in range(len(ground_truth.image_ids)):
        for counts in _run_lengths(ground_truth, image):
            masks.add(counts, [len(counts)])
    return GroundTruthMasks(masks, ground_truth.crowd | missing)


def _run_lengths(ground_truth: GroundTruth, image: int) -> Iterator[bytes]:
    """Compressed run lengths of the objects of an image; of the box for an object without a segmentation."""
    height, width = ground_truth.sizes_hw[image].tolist()
    objects = ground_truth.objects_of(image, image + 1)
    rows = ground_truth.rows[objects].tolist()
    segmentations = read_segmentations(ground_truth.dataset.arrays, rows, (height, width))
    for segmentation, xywh in zip(segmentations, ground_truth.boxes[objects], strict=True):
        if isinstance(segmentation, dict):
            yield segmentation["counts"]
        else:
            outline = segmentation or list(box_outlines(xywh[None], np.array([[height, width]])))
            (runs,) = outline_runs([outline], (height, width), (height, width))
            yield runs["counts"]
