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


def fine_pixels(coarse: Tensor, factor: int = 2) -> Iterator[tuple[int, int, int]]:
    """Image, row and column of every pixel of the map that is ``factor`` times as large as (N, C, H, W)."""
    n, _, h, w = coarse.shape
    return ((i, y, x) for i in range(n) for y in range(factor * h) for x in range(factor * w))


def reassembled(coarse: Tensor, kernels: Tensor, factor: int = 2) -> Tensor:
    """(N, C, H, W) and (N, K, fH, fW) -> (N, C, fH, fW): weighted sums over the neighbours of (y // f, x // f)."""
    size = int(kernels.shape[1] ** 0.5)
    out = coarse.new_zeros(*coarse.shape[:2], *kernels.shape[-2:])
    for i, y, x in fine_pixels(coarse, factor):
        neighbours = window(coarse[i], y // factor, x // factor, size)
        out[i, :, y, x] = sum(weight * value for weight, value in zip(kernels[i, :, y, x], neighbours, strict=True))
    return out


def convolved(image: Tensor, conv: nn.Conv2d, y: int, x: int) -> Tensor:
    """The output of ``conv`` (any odd size, zeros outside) at (y, x) of (C, H, W), without its bias."""
    pixels = torch.stack(list(window(image, y, x, conv.kernel_size[0])), dim=1)
    return (conv.weight.flatten(2) * pixels).sum((1, 2))


def sampled(image: Tensor, y: float, x: float, border: str = "replicated") -> Tensor:
    """(C, H, W) sampled bilinearly at (y, x), in pixels from the centre of the first one."""
    h, w = image.shape[1:]
    value = image.new_zeros(len(image))
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            inside = 0 <= row < h and 0 <= column < w
            if inside or border == "replicated":
                value = value + weight * image[:, min(max(row, 0), h - 1), min(max(column, 0), w - 1)]
    return value
