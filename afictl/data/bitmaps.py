"""The masks of one view on their way from a worker: each cut to what it covers, a bit a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl.data.run_lengths import run_ends
from afictl.data.segmentation import Segmentation, draw_segmentation, outline_runs


class Bitmaps(NamedTuple):
    """The masks of n objects on a view; a hundredth of the bytes that dense ones have, and small to send."""

    size_hw: tuple[int, int]
    places: np.ndarray
    """(n,4) int64: top, left, height and width of each crop; zeros where nothing is drawn."""
    bits: np.ndarray
    """Uint8, the pixels of all crops one after another, column by column, eight a byte."""

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """Uint8 (n,H,W) of 0 and 1 on ``device``."""
        shape = (len(self.places), *self.size_hw)
        areas = self.places[:, 2:].prod(axis=1)
        pixels: Any = np.unpackbits(self.bits, count=int(areas.sum()))
        if torch.device(device).type == "cpu":  # NumPy's zeros take memory only where something is written
            masks: Any = np.zeros(shape, dtype=np.uint8)
        else:
            masks, pixels = torch.zeros(shape, dtype=torch.uint8, device=device), torch.from_numpy(pixels).to(device)
        ends = areas.cumsum().tolist()
        for mask, end, (top, left, height, width) in zip(masks, ends, self.places.tolist(), strict=True):
            crop = pixels[end - height * width : end].reshape(width, height)
            mask[top : top + height, left : left + width] = crop.T
        return torch.as_tensor(masks)


def draw_bitmaps(
    segmentations: Sequence[Segmentation], from_hw: tuple[int, int], to_hw: tuple[int, int], flip: bool = False
) -> Bitmaps:
    """The bitmaps of ``draw_segmentation``, of several objects, without drawing the emptiness around them."""
    places = np.zeros((len(segmentations), 4), dtype=np.int64)
    crops: list[Any] = [None] * len(segmentations)
    outlined = [k for k, segmentation in enumerate(segmentations) if isinstance(segmentation, list)]
    runs = outline_runs([segmentations[k] for k in outlined], from_hw, to_hw, flip)  # type: ignore[misc]
    if runs:
        places[outlined] = coco_mask.toBbox(runs)[:, [1, 0, 3, 2]]
        for k, crop in zip(outlined, _crops(runs, places[outlined]), strict=True):
            crops[k] = crop
    for k, segmentation in enumerate(segmentations):
        if isinstance(segmentation, dict):
            bitmap = draw_segmentation(segmentation, from_hw, to_hw, flip)
            places[k] = top, left, height, width = _place(bitmap)
            crops[k] = bitmap[top : top + height, left : left + width].T.ravel()
    pixels = np.concatenate(crops) if crops else np.zeros(0, dtype=np.uint8)
    return Bitmaps(to_hw, places, np.packbits(pixels))


def _place(bitmap: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is not zero."""
    rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def _crops(runs: list[dict[str, Any]], places: np.ndarray) -> list[np.ndarray]:
    """The pixels of each crop, column by column, as an RLE runs."""
    column, row = np.divmod(run_ends([each["counts"] for each in runs]), runs[0]["size"][0])
    top, left, height, width = places.T[:, :, None]
    # A column of the image becomes one of the crop: nothing is set above and below it.
    ends = ((column - left) * height + (row - top).clip(0, height)).clip(0, height * width)
    starts = (height * width).cumsum(axis=0) - height * width
    lengths = np.diff((starts + ends).ravel(), prepend=0)
    values = np.tile(np.array([0, 1], dtype=np.uint8), len(lengths) // 2)
    return np.split(np.repeat(values, lengths), starts[1:, 0])
