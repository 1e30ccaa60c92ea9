"""Compact masks of one view, for transfer from a worker: each cropped to its object, one bit per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl.data.run_lengths import run_ends
from afictl.data.segmentation import Rle, Segmentation, draw_segmentation, outline_runs


class Bitmaps(NamedTuple):
    """The masks of n objects on a view, in about a hundredth of the bytes of dense ones."""

    size_hw: tuple[int, int]
    crops_tlhw: np.ndarray
    """(n,4) int64: top, left, height and width of each crop; zeros of an empty mask."""
    bits: np.ndarray
    """Uint8, the concatenated pixels of all crops in column-major order, eight per byte."""

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """Uint8 (n,H,W) of 0 and 1 on ``device``."""
        shape = (len(self.crops_tlhw), *self.size_hw)
        areas = self.crops_tlhw[:, 2:].prod(axis=1)
        pixels: Any = np.unpackbits(self.bits, count=int(areas.sum()))
        if torch.device(device).type == "cpu":  # NumPy's zeros take memory only where something is written
            masks: Any = np.zeros(shape, dtype=np.uint8)
        else:
            masks, pixels = torch.zeros(shape, dtype=torch.uint8, device=device), torch.from_numpy(pixels).to(device)
        ends = areas.cumsum().tolist()
        for mask, end, (top, left, height, width) in zip(masks, ends, self.crops_tlhw.tolist(), strict=True):
            crop = pixels[end - height * width : end].reshape(width, height)
            mask[top : top + height, left : left + width] = crop.T
        return torch.as_tensor(masks)


def draw_bitmaps(
    segmentations: Sequence[Segmentation], from_hw: tuple[int, int], to_hw: tuple[int, int], flip: bool = False
) -> Bitmaps:
    """The bitmaps of ``draw_segmentation`` for several objects, of which only the crops are drawn."""
    crops_tlhw = np.zeros((len(segmentations), 4), dtype=np.int64)
    crops: list[Any] = [None] * len(segmentations)
    outlined = [k for k, segmentation in enumerate(segmentations) if isinstance(segmentation, list)]
    runs = outline_runs([segmentations[k] for k in outlined], from_hw, to_hw, flip)  # type: ignore[misc]
    if runs:
        crops_tlhw[outlined] = coco_mask.toBbox(runs)[:, [1, 0, 3, 2]]
        for k, crop in zip(outlined, _crops(runs, crops_tlhw[outlined]), strict=True):
            crops[k] = crop
    for k, segmentation in enumerate(segmentations):
        if isinstance(segmentation, dict):
            bitmap = draw_segmentation(segmentation, from_hw, to_hw, flip)
            crops_tlhw[k] = top, left, height, width = _bounding_box(bitmap)
            crops[k] = bitmap[top : top + height, left : left + width].T.ravel()
    pixels = np.concatenate(crops) if crops else np.zeros(0, dtype=np.uint8)
    return Bitmaps(to_hw, crops_tlhw, np.packbits(pixels))


def _bounding_box(bitmap: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the nonzero pixels."""
    rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def _crops(runs: list[Rle], crops_tlhw: np.ndarray) -> list[np.ndarray]:
    """The pixels of each crop in column-major order, as in an RLE."""
    column, row = np.divmod(run_ends([rle["counts"] for rle in runs]), runs[0]["size"][0])
    top, left, height, width = crops_tlhw.T[:, :, None]
    # Each column of the image maps to one of the crop: no pixel is set above and below the crop.
    ends = ((column - left) * height + (row - top).clip(0, height)).clip(0, height * width)
    starts = (height * width).cumsum(axis=0) - height * width
    lengths = np.diff((starts + ends).ravel(), prepend=0)
    values = np.tile(np.array([0, 1], dtype=np.uint8), len(lengths) // 2)
    return np.split(np.repeat(values, lengths), starts[1:, 0])
