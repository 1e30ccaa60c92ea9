"""Weighted sums of coarse neighbours with one kernel for each fine pixel, shared by CARAFE and its successors.

Fine pixel (y, x) belongs to coarse pixel (y // f, x // f) and is computed from the k x k neighbours of it; outside the
map there are zeros. The factor f is 2, or 1 for a filter: both maps then have one size. Written as a loop over the
k * k shifts of the coarse map: a copy of all neighbourhoods (``F.unfold``) takes k * k times its memory. Backward
passes are written out for the same reason: only the operands are saved, no product.

Legend: N images, C channels, H x W the coarse map, k the kernel size, K = k * k, P = f * f. A value for each of the
fH x fW fine pixels and each of their neighbours is stored in P planes, (N, K, P, H, W): plane ``f * a + b`` holds the
fine pixels (f * i + a, f * j + b), which all have the same position relative to their neighbours. Neighbours are
numbered row by row. Sums run in float32 (float64 for such maps) whatever the precision of the maps.
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
        kernels: (N, K, P, H, W), float32, or float64 for such maps.

    Returns:
        (N, C, fH, fW) in the dtype of ``coarse``.
    """
    return _Reassemble.apply(coarse, kernels)


def similarities(fine: Tensor, coarse: Tensor, size: int) -> Tensor:
    """Dot products of each fine pixel with its ``size`` x ``size`` coarse neighbours.

    Args:
        fine: (N, C, fH, fW).
        coarse: (N, C, H, W).

    Returns:
        (N, K, P, H, W), float32, or float64 for such maps; zero where the neighbour is outside the map.
    """
    return _Similarities.apply(fine, coarse, size)


def normalise_kernels(logits: Tensor) -> Tensor:
    """Softmax of (N, K, P, H, W) over the K neighbours: kernels of sum one, at least float32."""
    return logits.softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


def to_planes(fine: Tensor, factor: int) -> Tensor:
    """(N, C, fH, fW) -> (N, C, P, H, W)."""
    return _split_pixels(fine, factor).permute(0, 1, 3, 5, 2, 4).flatten(2, 3)


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
    n, c, h, w = coarse.shape
    factor = math.isqrt(kernels.shape[2])
    fine = coarse.new_empty(n, c, factor * h, factor * w)
    for channels in _chunks(coarse, factor):
        part = coarse[:, channels].to(kernels.dtype)
        planes = part.new_zeros(*part.shape[:2], *kernels.shape[2:])
        for s, shifted in enumerate(_shifts(part, math.isqrt(kernels.shape[1]))):
            planes.addcmul_(shifted.unsqueeze(2), kernels[:, s].unsqueeze(1))
        planes = planes.unflatten(2, (factor, factor))
        _split_pixels(fine[:, channels], factor).copy_(planes.permute(0, 1, 4, 2, 5, 3))
    return fine


def _dot_products(fine: Tensor, coarse: Tensor, size: int) -> Tensor:
    """kernels[s, y, x] = sum over c of fine[c, y, x] * coarse[c, neighbour s of (y, x)]."""
    n, _, h, w = coarse.shape
    factor = fine.shape[2] // h
    dtype = torch.promote_types(coarse.dtype, torch.float32)
    kernels = coarse.new_zeros(n, size * size, factor * factor, h, w, dtype=dtype)
    for channels in _chunks(coarse, factor):
        planes = to_planes(fine[:, channels], factor).to(dtype)
        for s, shifted in enumerate(_shifts(coarse[:, channels].to(dtype), size)):
            kernels[:, s] += (planes * shifted.unsqueeze(2)).sum(1)
    return kernels


def _scatter_weighted_sums(fine: Tensor, kernels: Tensor) -> Tensor:
    """coarse[c, i, j] = sum over all fine pixels that have (i, j) as neighbour s of kernels[s] * fine[c]."""
    n, c, h, w = fine.shape[0], fine.shape[1], *kernels.shape[-2:]
    size, factor = math.isqrt(kernels.shape[1]), math.isqrt(kernels.shape[2])
    coarse = fine.new_empty(n, c, h, w)
    for channels in _chunks(coarse, factor):
        planes = to_planes(fine[:, channels], factor).to(kernels.dtype)
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


def _chunks(coarse: Tensor, factor: int) -> list[slice]:
    n, c, h, w = coarse.shape
    count = _MIN_CHANNELS
    while count < _MAX_CHANNELS and 2 * count * n * factor**2 * h * w <= _CACHED_VALUES:
        count *= 2  # at most three sizes, for torch.compile
    return [slice(start, start + count) for start in range(0, c, count)]


def _split_pixels(fine: Tensor, factor: int) -> Tensor:
    """A view (N, C, H, f, W, f) of (N, C, fH, fW)."""
    return fine.unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
