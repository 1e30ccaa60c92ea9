"""Weighted sums of coarse neighbours with one kernel for each fine pixel, shared by CARAFE, FADE and SAPA.

Fine pixel (y, x) belongs to coarse pixel (y // 2, x // 2) and is computed from the k x k neighbours of it; outside
the map there are zeros. Written as a loop over the k * k shifts of the coarse map: a copy of all neighbourhoods
(``F.unfold``) takes k * k times its memory. Backward passes are written out for the same reason: only the operands
are saved, no product.

Legend: N images, C channels, H x W the coarse map, k the kernel size, K = k * k. A value for each of the 2H x 2W fine
pixels and each of their neighbours is stored in four planes, (N, K, 4, H, W): plane ``2 * a + b`` holds the fine
pixels (2i + a, 2j + b), which all have the same position relative to their neighbours. Neighbours are numbered row by
row. Sums run in float32 (float64 for such maps) whatever the precision of the maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

# Channels computed at a time, so that only a part of the map is in float32 and in planes. Of a large map fewer, so that
# the planes stay in a processor's cache over all shifts (twice as fast), but not too few: a GPU is fast with few steps.
_MIN_CHANNELS, _MAX_CHANNELS = 16, 64
_CACHED_VALUES = 2**20


def reassemble(coarse: Tensor, kernels: Tensor) -> Tensor:
    """For each fine pixel the sum of its coarse neighbours, weighted by its kernel.

    Args:
        coarse: (N, C, H, W).
        kernels: (N, K, 4, H, W), float32, or float64 for such maps.

    Returns:
        (N, C, 2H, 2W) in the dtype of ``coarse``.
    """
    return _Reassemble.apply(coarse, kernels)


def similarities(fine: Tensor, coarse: Tensor, size: int) -> Tensor:
    """Dot products of each fine pixel with its ``size`` x ``size`` coarse neighbours.

    Args:
        fine: (N, C, 2H, 2W).
        coarse: (N, C, H, W).

    Returns:
        (N, K, 4, H, W), float32, or float64 for such maps; zero where the neighbour is outside the map.
    """
    return _Similarities.apply(fine, coarse, size)


def to_planes(fine: Tensor) -> Tensor:
    """(N, C, 2H, 2W) -> (N, C, 4, H, W)."""
    return _split_pixels(fine).permute(0, 1, 3, 5, 2, 4).flatten(2, 3)


class _Reassemble(Function):
    @staticmethod
    def forward(ctx: Any, coarse: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(coarse, kernels)
        return _weighted_sums(coarse, kernels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        coarse, kernels = ctx.saved_tensors
        return _scatter_weighted_sums(grad, kernels), _dot_products(grad, coarse, math.isqrt(kernels.shape[1]))


class _Similarities(Function):
    @staticmethod
    def forward(ctx: Any, fine: Tensor, coarse: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(fine, coarse)
        return _dot_products(fine, coarse, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        fine, coarse = ctx.saved_tensors
        return _weighted_sums(coarse, grad), _scatter_weighted_sums(fine, grad), None


def _weighted_sums(coarse: Tensor, kernels: Tensor) -> Tensor:
    """fine[c, y, x] = sum over s of kernels[s, y, x] * coarse[c, neighbour s of (y, x)]."""
    fine = coarse.new_empty(*coarse.shape[:2], 2 * coarse.shape[2], 2 * coarse.shape[3])
    for channels in _chunks(coarse):
        part = coarse[:, channels].to(kernels.dtype)
        planes = part.new_zeros(*part.shape[:2], 4, *part.shape[2:])
        for s, shifted in enumerate(_shifts(part, math.isqrt(kernels.shape[1]))):
            planes.addcmul_(shifted.unsqueeze(2), kernels[:, s].unsqueeze(1))
        _split_pixels(fine[:, channels]).copy_(planes.unflatten(2, (2, 2)).permute(0, 1, 4, 2, 5, 3))
    return fine


def _dot_products(fine: Tensor, coarse: Tensor, size: int) -> Tensor:
    """kernels[s, y, x] = sum over c of fine[c, y, x] * coarse[c, neighbour s of (y, x)]."""
    n, _, h, w = coarse.shape
    dtype = torch.promote_types(coarse.dtype, torch.float32)
    kernels = coarse.new_zeros(n, size * size, 4, h, w, dtype=dtype)
    for channels in _chunks(coarse):
        planes = to_planes(fine[:, channels]).to(dtype)
        for s, shifted in enumerate(_shifts(coarse[:, channels].to(dtype), size)):
            kernels[:, s] += (planes * shifted.unsqueeze(2)).sum(1)
    return kernels


def _scatter_weighted_sums(fine: Tensor, kernels: Tensor) -> Tensor:
    """coarse[c, i, j] = sum over all fine pixels that have (i, j) as neighbour s of kernels[s] * fine[c]."""
    n, c, h, w = fine.shape[0], fine.shape[1], *kernels.shape[-2:]
    size = math.isqrt(kernels.shape[1])
    coarse = fine.new_empty(n, c, h, w)
    for channels in _chunks(coarse):
        planes = to_planes(fine[:, channels]).to(kernels.dtype)
        padded = planes.new_zeros(n, planes.shape[1], h + size - 1, w + size - 1)
        for s in range(size * size):
            window = padded[:, :, s // size : s // size + h, s % size : s % size + w]
            window += (planes * kernels[:, s].unsqueeze(1)).sum(2)
        coarse[:, channels] = padded[:, :, size // 2 : size // 2 + h, size // 2 : size // 2 + w]
    return coarse


def _shifts(coarse: Tensor, size: int) -> Iterator[Tensor]:
    """(N, C, H, W) shifted to each of its ``size`` x ``size`` neighbours, as views of one padded copy."""
    h, w = coarse.shape[-2:]
    padded = F.pad(coarse, (size // 2,) * 4)
    return (padded[:, :, dy : dy + h, dx : dx + w] for dy in range(size) for dx in range(size))


def _chunks(coarse: Tensor) -> list[slice]:
    n, c, h, w = coarse.shape
    count = _MIN_CHANNELS
    while count < _MAX_CHANNELS and 2 * count * n * 4 * h * w <= _CACHED_VALUES:
        count *= 2  # at most three sizes, for torch.compile
    return [slice(start, start + count) for start in range(0, c, count)]


def _split_pixels(fine: Tensor) -> Tensor:
    """A view (N, C, H, 2, W, 2) of (N, C, 2H, 2W)."""
    return fine.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
