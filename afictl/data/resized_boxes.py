"""Boxes of a dataset as a detector sees them: in pixels of the resized image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afictl.data.dataset import Dataset, clip_boxes
from afictl.data.transforms import resized_size
from afictl.presets import InputConfig


def resized_boxes(dataset: Dataset, config: InputConfig, short_sides: Sequence[int]) -> np.ndarray:
    """The boxes of all objects that training uses, after each of several resizings of their images.

    Args:
        dataset: the dataset, with k such objects.
        config: how images are resized.
        short_sides: short sides of s resized images, such as ``config.min_sizes``.

    Returns:
        (s * k, 4) float32 xyxy in pixels of the resized images: all objects at the first short side, then the next.
    """
    boxes, sizes_hw = original_boxes(dataset)
    unique_hw, index = np.unique(sizes_hw, axis=0, return_inverse=True)
    resized = []
    for side in short_sides:
        new_hw = np.array([resized_size(config, (height, width), side) for height, width in unique_hw.tolist()])
        scale_xy = (new_hw.reshape(-1, 2) / unique_hw)[index.reshape(-1), ::-1]
        resized.append(boxes * np.tile(scale_xy, 2))
    return np.concatenate(resized).astype(np.float32)


def original_boxes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (k,4) float32 xyxy in original pixels of the objects that training uses; sizes (k,2) of their images."""
    rows = dataset.training_rows
    sizes_hw = dataset.object_sizes_hw[rows]
    return clip_boxes(dataset.arrays["xywh"].numpy()[rows], sizes_hw), sizes_hw
