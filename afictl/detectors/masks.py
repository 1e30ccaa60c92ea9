"""Instance masks, between the square grid of a box and the pixels of an image.

Legend: N instances, M x M the grid of a box (28 x 28), H x W the image. Boxes are (x1, y1, x2, y2) in pixels;
the centre of pixel (row i, column j) is at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from afictl.total_batch import loss_divisor

_CHUNK_BYTES = 2**28


def paste_masks(mask_probs: Tensor, boxes: Tensor, size_hw: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of an image, bool (N, H, W).

    Args:
        mask_probs: (N, M, M) probabilities on each box's grid.
        boxes: (N, 4) pixels of the image to paste into; not rounded.
        size_hw: height and width of that image.
        threshold: lowest probability of a pixel of the instance.
    """
    pasted = torch.zeros((len(boxes), *size_hw), dtype=torch.bool, device=mask_probs.device)
    for image, probs, box in zip(pasted, mask_probs, boxes.tolist(), strict=True):
        _paste_into(image, probs, box, threshold)
    return pasted


def iter_pasted_masks(
    mask_probs: Tensor,
    boxes: Tensor,
    size_hw: tuple[int, int],
    paste: Callable[[Tensor, Tensor, tuple[int, int]], Tensor] = paste_masks,
    chunk_bytes: int = _CHUNK_BYTES,
) -> Iterator[Tensor]:
    """Paste masks in chunks, so that 100 instances of a large photograph do not need gigabytes.

    Args:
        mask_probs: (N, M, M) probabilities on each box's grid.
        boxes: (N, 4) pixels of the image to paste into; not rounded.
        size_hw: height and width of that image.
        paste: the detector's method ``paste_masks``.
        chunk_bytes: largest size of a chunk.

    Yields:
        bool (n, H, W), in order; every chunk but the last has the same n >= 1.
    """
    height, width = size_hw
    step = max(1, chunk_bytes // max(1, height * width))
    for start in range(0, len(boxes), step):
        chunk = slice(start, start + step)
        yield paste(mask_probs[chunk], boxes[chunk], size_hw)


def _paste_into(image: Tensor, probs: Tensor, box: list[float], threshold: float) -> None:
    """Sample ``probs`` (M, M) at the centre of every pixel in the exact ``box`` and half a cell around it.

    As in detectron2: bilinear with zeros around the grid. torchvision grows the box and rounds it to whole
    pixels instead, which costs mask AP.
    """
    # The grid fades to zero within half a cell outside the box.
    reach_x, reach_y = ((box[i + 2] - box[i]) / probs.shape[-1] / 2 for i in (0, 1))
    if not (reach_x > 0 and reach_y > 0):
        return
    columns = _pixels(box[0] - reach_x, box[2] + reach_x, image.shape[1])
    rows = _pixels(box[1] - reach_y, box[3] + reach_y, image.shape[0])
    if not columns or not rows:
        return
    x = _grid_positions(columns, box[0], box[2], probs.device)
    y = _grid_positions(rows, box[1], box[3], probs.device)
    grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=-1)
    sampled = F.grid_sample(probs.float()[None, None], grid[None], align_corners=False)[0, 0]
    image[rows.start : rows.stop, columns.start : columns.stop] = sampled >= threshold


def _pixels(low: float, high: float, size: int) -> range:
    """Pixels of 0..size-1 that the interval touches."""
    return range(max(math.floor(low), 0), min(math.ceil(high), size))


def _grid_positions(pixels: range, low: float, high: float, device: torch.device) -> Tensor:
    """Pixel centres in ``grid_sample``'s coordinates, where ``low`` is -1 and ``high`` is 1."""
    centres = torch.arange(pixels.start, pixels.stop, dtype=torch.float32, device=device) + 0.5
    return (centres - low) / (high - low) * 2 - 1


def mask_targets(masks: Tensor, boxes: Tensor, matches: Tensor, size: int) -> Tensor:
    """Targets of a mask branch: the object of each box, cropped to the box and resized to its grid.

    Aligned RoIAlign of the bitmap, at least half covered: detectron2's rule for bitmap ground truth.

    Args:
        masks: (G, H, W) bitmaps of the image's objects, of any dtype; a pixel that is not 0 is set.
        boxes: (N, 4) pixels.
        matches: (N,) int64, index of the object of each box.
        size: M of the grid.

    Returns:
        float32 (N, M, M) of 0 and 1.
    """
    targets = boxes.new_zeros((len(boxes), size, size))
    # One object at a time: bitmaps of a crowded photograph as float32 would take half a gigabyte.
    for index in matches.unique().tolist():
        is_match = matches == index
        bitmap = masks[index].to(torch.bool).to(torch.float32)[None, None]
        resized = roi_align(bitmap, [boxes[is_match].float()], size, sampling_ratio=0, aligned=True)
        targets[is_match] = (resized[:, 0] >= 0.5).to(targets.dtype)
    return targets


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy at the class of each instance of all ranks; zero, with a gradient, without instances.

    Args:
        logits: (N, K, M, M).
        labels: (N,) int64 in 1..K.
        targets: (N, M, M) of 0 and 1.
    """
    count = loss_divisor(targets.numel(), logits)
    values = select_class(logits, labels).float()
    return F.binary_cross_entropy_with_logits(values, targets.float(), reduction="sum") / count


def select_class(values: Tensor, labels: Tensor) -> Tensor:
    """Of ``values`` (N, K, ...) those of the class of each instance, ``labels`` (N,) in 1..K."""
    return values[torch.arange(labels.shape[0], device=values.device), labels - 1]
