"""The masks of one view on their way from a worker: each cut to what it covers, a bit a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl.data.masks import Segmentation, draw_segmentation, outline_runs
from afictl.data.run_lengths import packed_runs


class Bitmaps(NamedTuple):
    """The masks of n objects on a view; a hundredth of the bytes that dense ones have, and small to send."""

    size_hw: tuple[int, int]
    places: np.ndarray
    """(n,4) int64: top, left, height and width of each crop; zeros where nothing is drawn."""
    bits: np.ndarray
    """Uint8, the pixels of all crops one after another, eight a byte."""

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """Uint8 (n,H,W) of 0 and 1 on ``device``."""
        shape = (len(self.places), *self.size_hw)
        # NumPy's zeros take memory only where something is written.
        masks = torch.from_numpy(np.zeros(shape, dtype=np.uint8)) if torch.device(device).type == "cpu" else None
        masks = torch.zeros(shape, dtype=torch.uint8, device=device) if masks is None else masks
        areas = self.places[:, 2:].prod(axis=1)
        pixels = torch.from_numpy(np.unpackbits(self.bits, count=int(areas.sum()))).to(device)
        for k, (crop, place) in enumerate(zip(pixels.split(areas.tolist()), self.places.tolist(), strict=True)):
            top, left, height, width = place
            masks[k, top : top + height, left : left + width] = crop.view(height, width)
        return masks


def draw_bitmaps(
    segmentations: Sequence[Segmentation], from_hw: tuple[int, int], to_hw: tuple[int, int], flip: bool = False
) -> Bitmaps:
    """The bitmaps of ``draw_segmentation``, of several objects, without drawing the emptiness around them."""
    places = np.zeros((len(segmentations), 4), dtype=np.int64)
    crops = []
    for k, segmentation in enumerate(segmentations):
        if isinstance(segmentation, dict):
            bitmap = draw_segmentation(segmentation, from_hw, to_hw, flip)
            places[k] = top, left, height, width = _place(bitmap)
            crops.append(bitmap[top : top + height, left : left + width].ravel())
        else:
            runs = outline_runs(segmentation, from_hw, to_hw, flip)
            left, top, width, height = map(int, coco_mask.toBbox(runs))
            places[k] = top, left, height, width
            crops.append(_decode(runs, places[k]))
    pixels = np.concatenate(crops) if crops else np.zeros(0, dtype=np.uint8)
    return Bitmaps(to_hw, places, np.packbits(pixels))


def _place(bitmap: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is not zero."""
    rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def _decode(rle: dict, place: np.ndarray) -> np.ndarray:
    """The pixels of a crop, row by row; an RLE runs down the columns of its image."""
    top, left, height, width = place.tolist()
    rows = rle["size"][0]
    ends = packed_runs(rle["counts"]).cumsum().clip(left * rows, (left + width) * rows)
    lengths = np.diff(ends, prepend=left * rows)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).view(np.uint8).reshape(width, rows)
    return columns[:, top : top + height].T.ravel()
