"""Definitions of the papers, written as plain loops over pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def randomise(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Draw large random weights: small or zero ones could hide errors."""
    with torch.no_grad():
        for value in module.parameters():
            value.normal_(std=scale)
    return module


def window(image: Tensor, y: int, x: int, size: int) -> Iterator[Tensor]:
    """The channel vectors of (C, H, W) around (y, x), row by row, zeros outside."""
    for dy in range(-(size // 2), size // 2 + 1):
        for dx in range(-(size // 2), size // 2 + 1):
            inside = 0 <= y + dy < image.shape[1] and 0 <= x + dx < image.shape[2]
            yield image[:, y + dy, x + dx] if inside else image.new_zeros(len(image))


def fine_pixels(coarse: Tensor) -> Iterator[tuple[int, int, int]]:
    """Image, row and column of every pixel of the enlarged map of (N, C, H, W)."""
    n, _, h, w = coarse.shape
    return ((i, y, x) for i in range(n) for y in range(2 * h) for x in range(2 * w))


def reassembled(coarse: Tensor, kernels: Tensor) -> Tensor:
    """(N, C, H, W) and (N, K, 2H, 2W) -> (N, C, 2H, 2W): weighted sums over the neighbours of (y // 2, x // 2)."""
    size = int(kernels.shape[1] ** 0.5)
    out = coarse.new_zeros(*coarse.shape[:2], *kernels.shape[-2:])
    for i, y, x in fine_pixels(coarse):
        neighbours = window(coarse[i], y // 2, x // 2, size)
        out[i, :, y, x] = sum(weight * value for weight, value in zip(kernels[i, :, y, x], neighbours, strict=True))
    return out


def convolved(image: Tensor, conv: nn.Conv2d, y: int, x: int) -> Tensor:
    """The output of ``conv`` (any odd size, zeros outside) at (y, x) of (C, H, W), without its bias."""
    pixels = torch.stack(list(window(image, y, x, conv.kernel_size[0])), dim=1)
    return (conv.weight.flatten(2) * pixels).sum((1, 2))
