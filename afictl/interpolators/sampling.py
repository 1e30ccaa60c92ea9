"""Bilinear sampling of a map at predicted points, shared by DySample, DLU, LDA-AQU and FreqFusion.

Legend: N images, C channels, G groups of channels that share their points, H x W the sampled map, h x w the points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def moved_centres(offset: Tensor, map_hw: tuple[int, int], scale: int) -> Tensor:
    """Centres of the pixels of a grid that is ``scale`` times as fine as a map, each moved by its offset.

    Args:
        offset: (N, 2 * G, h, w), at least float32: x of all groups, then y, in pixels of the map.
        map_hw: H and W.
        scale: pixels of the grid in one of the map, along a side.

    Returns:
        (N * G, h, w, 2), x and y from -1 to 1 between the borders of the map.
    """
    (height, width), (h, w) = map_hw, offset.shape[-2:]
    offset = offset.unflatten(1, (2, -1))
    x = _centres(w, scale, offset) + offset[:, 0]
    y = _centres(h, scale, offset).unsqueeze(1) + offset[:, 1]
    return torch.stack((2 * x / width - 1, 2 * y / height - 1), dim=-1).flatten(0, 1)


def sample(maps: Tensor, points: Tensor, *, padding: str = "border", align_corners: bool = False) -> Tensor:
    """Values of ``maps`` at ``points``, by bilinear interpolation.

    Args:
        maps: (N, C, H, W).
        points: (N * G, h, w, 2), at least float32 also under autocast: in bfloat16 a coordinate near 300 is good to one
            pixel only.
        padding: ``padding_mode`` of ``F.grid_sample``.
        align_corners: of ``F.grid_sample``.

    Returns:
        (N, C, h, w) in the dtype of ``points``; NaN for an image and group with a point that is not finite.
    """
    n, c, height, width = maps.shape
    groups = maps.to(points.dtype).reshape(len(points), -1, height, width)
    # Without nan_to_num, grid_sample gives a wrong number at NaN, and its backward pass on a CPU writes outside of the
    # map.
    sampled = F.grid_sample(groups, points.nan_to_num(), padding_mode=padding, align_corners=align_corners)
    largest = points.detach().abs().amax(dim=(1, 2, 3))
    sampled += (largest - largest)[:, None, None, None]  # 0, or NaN
    return sampled.view(n, c, *points.shape[1:3])


def _centres(count: int, scale: int, like: Tensor) -> Tensor:
    """Centres of ``count`` pixels in a row, for a scale of two 0.25, 0.75, 1.25 and so on."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / scale
