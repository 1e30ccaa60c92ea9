"""3x3 convolutions of large maps on CPUs by Winograd's algorithm, which needs a quarter of the multiplications.

Lavin and Gray, "Fast algorithms for convolutional neural networks", https://arxiv.org/abs/1509.09308: F(4x4, 3x3), here
with the points 0, +-1/sqrt(2), +-sqrt(2) and infinity. With them the largest error is 1e-5 standard deviations, a
direct convolution's is 1e-6 to 1e-5, by processor; with their points 0, +-1, +-2 it is four times as large.

Legend: N images, C input and O output channels, H x W the map, which tiles of 4x4 outputs and 6x6 inputs cover.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_A, _B = math.sqrt(0.5), math.sqrt(2.0)
_MIN_CHANNELS = 128
_MIN_POSITIONS = 2048
"""Of a map, all images together: below, the transformation of the weights takes longer than it saves."""
_MAX_PADDING = 1.5
"""Positions of all tiles divided by those of the map."""
_STRIP = 168
"""Tiles that are computed at once: few enough for a processor's cache, enough for matrix products."""


def suits_winograd(maps: Tensor, out_channels: int) -> bool:
    """Whether a 3x3 convolution of ``maps`` (N, C, H, W) to ``out_channels`` is faster by Winograd's algorithm.

    Compiled and exported convolutions are never, nor those of other devices and number formats.
    """
    images, channels, height, width = maps.shape
    if maps.device.type != "cpu" or maps.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    positions, tiles = images * height * width, images * math.ceil(height / 4) * math.ceil(width / 4)
    is_large = positions >= _MIN_POSITIONS and min(channels, out_channels) >= _MIN_CHANNELS
    return is_large and 16 * tiles <= _MAX_PADDING * positions


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1, on large maps of a CPU by Winograd's algorithm."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        if suits_winograd(maps, self.out_channels):
            return _convolve(maps, self.weight, self.bias)
        return super().forward(maps)


class TransposedConv6x6(nn.ConvTranspose2d):
    """6x6 transposed convolution of stride 2, on large maps of a CPU as a 3x3 convolution with pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 6, stride=2, padding=2)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        if output_size is not None or not suits_winograd(maps, 4 * self.out_channels):
            return super().forward(maps, output_size)
        # An output in row 2y + a has the kernel's row a + 2 - 2d on the map's row y + d, for d = -1, 0, 1.
        kernel = self.weight.unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return F.pixel_shuffle(_convolve(maps, kernel.flatten(0, 2), bias), 2)


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _Winograd.apply(maps, weight)
    return result if bias is None else result.add_(bias[:, None, None])


class _Winograd(torch.autograd.Function):
    """(N, C, H, W), (O, C, 3, 3) -> (N, O, H, W) in channels-last format; the gradients take the same way."""

    @staticmethod
    def forward(maps: Tensor, weight: Tensor) -> Tensor:
        """Convolution with padding 1."""
        images, _, height, width = maps.shape
        kernels, padded = _transform_weight(weight), _pad(maps, 1)
        rows, columns = math.ceil(height / 4), math.ceil(width / 4)
        shape = (images, weight.shape[0], 4 * rows, 4 * columns)
        result = torch.empty(shape, dtype=maps.dtype, memory_format=torch.channels_last)
        tiles = _output_tiles(result.permute(0, 2, 3, 1))
        for part, count in _strips(images, rows, columns):
            products = (_input_tiles(padded, part, count) @ kernels).view(6, 6, *count, columns, -1)
            half = products.new_empty(4, *products.shape[1:])
            _reduce(products, half)
            _reduce(half.transpose(0, 1), tiles[:, :, part[0], part[1]].transpose(0, 1))
        if result.shape[2:] == maps.shape[2:]:
            return result
        return result[..., :height, :width].clone(memory_format=torch.channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Both inputs are needed for the gradients."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the map and of the weights."""
        maps, weight = ctx.saved_tensors
        needs_maps, needs_weight = ctx.needs_input_grad
        transposed = weight.flip(2, 3).transpose(0, 1)
        return (
            _Winograd.forward(gradient, transposed) if needs_maps else None,
            _weight_gradient(maps, gradient) if needs_weight else None,
        )


def _weight_gradient(maps: Tensor, gradient: Tensor) -> Tensor:
    """(N, C, H, W), (N, O, H, W) -> (O, C, 3, 3)."""
    images, channels, height, width = maps.shape
    rows, columns = math.ceil(height / 4), math.ceil(width / 4)
    padded, tiles = _pad(maps, 1), _output_tiles(_pad(gradient, 0))
    total = maps.new_zeros(36, channels, gradient.shape[1])
    for part, count in _strips(images, rows, columns):
        outputs = tiles[:, :, part[0], part[1]]
        half = outputs.new_empty(6, 4, *outputs.shape[2:])
        _expand(outputs, half)
        products = outputs.new_empty(6, 6, *outputs.shape[2:])
        _expand(half.transpose(0, 1), products.transpose(0, 1))
        total.baddbmm_(_input_tiles(padded, part, count).mT, products.view(36, -1, gradient.shape[1]))
    kernel = _kernel_matrix(maps.dtype).T @ total.view(36, -1)
    return kernel.view(3, 3, channels, -1).permute(3, 2, 0, 1)


def _strips(images: int, rows: int, columns: int) -> Iterator[tuple[tuple[slice, slice], tuple[int, int]]]:
    """Parts of a grid of tiles with about ``_STRIP`` of them: images and rows, and how many there are of both."""
    image_step = max(1, _STRIP // (rows * columns))
    row_step = max(1, min(rows, _STRIP // columns))
    for image in range(0, images, image_step):
        for row in range(0, rows, row_step):
            count = (min(image_step, images - image), min(row_step, rows - row))
            yield (slice(image, image + count[0]), slice(row, row + count[1])), count


def _pad(maps: Tensor, border: int) -> Tensor:
    """(N, C, H, W) -> (N, 4 * rows + 2 * border, 4 * columns + 2 * border, C), zeros around and after the map."""
    images, channels, height, width = maps.shape
    shape = [4 * math.ceil(size / 4) + 2 * border for size in (height, width)]
    padded = maps.new_zeros(images, *shape, channels)
    padded[:, border : border + height, border : border + width] = maps.permute(0, 2, 3, 1)
    return padded


def _output_tiles(maps: Tensor) -> Tensor:
    """A view (4, 4, N, rows, columns, O) of a map (N, 4 * rows, 4 * columns, O)."""
    return maps.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).permute(2, 4, 0, 1, 3, 5)


def _input_tiles(padded: Tensor, part: tuple[slice, slice], count: tuple[int, int]) -> Tensor:
    """Transformed inputs (36, tiles, C) of a part of the tiles of a padded map."""
    images, rows = part
    _, _, width, channels = padded.shape
    columns = (width - 2) // 4
    first, last = 4 * rows.start, 4 * rows.stop - 3
    half = padded.new_empty(6, *count, width, channels)
    _transform([padded[images, first + k : last + k : 4] for k in range(6)], half)
    tiles = padded.new_empty(6, 6, *count, columns, channels)
    _transform([half[..., k : 4 * columns - 3 + k : 4, :] for k in range(6)], tiles.transpose(0, 1))
    return tiles.view(36, -1, channels)


def _transform(inputs: Sequence[Tensor], outputs: Tensor) -> None:
    """Six values at the points, from six inputs in a row: B^T in the paper."""
    a, b = _A**2, _B**2
    for first, last in ((0, 0), (1, 5)):
        torch.add(inputs[first + 4], inputs[first + 2], alpha=-(a + b), out=outputs[last])
        outputs[last].add_(inputs[first], alpha=a * b)
    for point, other, k in ((_A, b, 1), (_B, a, 3)):
        even = torch.add(inputs[4], inputs[2], alpha=-other)
        odd = torch.add(inputs[3], inputs[1], alpha=-other)
        torch.add(even, odd, alpha=point, out=outputs[k])
        torch.add(even, odd, alpha=-point, out=outputs[k + 1])


def _reduce(products: Tensor, outputs: Tensor) -> None:
    """Four outputs in a row from the products at the six points: A^T in the paper."""
    even_a, odd_a = products[1] + products[2], products[1] - products[2]
    even_b, odd_b = products[3] + products[4], products[3] - products[4]
    torch.add(even_a, even_b, out=outputs[0]).add_(products[0])
    torch.mul(odd_a, _A, out=outputs[1]).add_(odd_b, alpha=_B)
    torch.mul(even_a, _A**2, out=outputs[2]).add_(even_b, alpha=_B**2)
    torch.add(products[5], odd_a, alpha=_A**3, out=outputs[3]).add_(odd_b, alpha=_B**3)


def _expand(outputs: Tensor, products: Tensor) -> None:
    """Adjoint of ``_reduce``: six values from four."""
    products[0].copy_(outputs[0])
    products[5].copy_(outputs[3])
    for point, k in ((_A, 1), (_B, 3)):
        even = torch.add(outputs[0], outputs[2], alpha=point**2)
        odd = (point * outputs[1]).add_(outputs[3], alpha=point**3)
        torch.add(even, odd, out=products[k])
        torch.sub(even, odd, out=products[k + 1])


def _transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O)."""
    out_channels, channels = weight.shape[:2]
    return (_kernel_matrix(weight.dtype) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, out_channels)


def _kernel_matrix(dtype: torch.dtype) -> Tensor:
    """(36, 9), both dimensions of a kernel: Kronecker square of G in the paper."""
    rows = [[1 / (_A * _B) ** 2, 0.0, 0.0]]
    for point, other in ((_A, _B), (_B, _A)):
        factor = 1 / (2 * point**2 * (point**2 - other**2))
        rows += [[factor, sign * factor * point, factor * point**2] for sign in (1, -1)]
    matrix = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.kron(matrix, matrix).to(dtype)
