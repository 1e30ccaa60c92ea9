"""3x3 convolutions of large maps on CPUs by Winograd's algorithm, which needs a quarter of the multiplications.

Lavin and Gray, "Fast algorithms for convolutional neural networks", https://arxiv.org/abs/1509.09308: F(4x4, 3x3), here
with the points 0, +-1/sqrt(2), +-sqrt(2) and infinity. With them the largest error is 1e-5 standard deviations, a
direct convolution's is 1e-6 to 1e-5, by processor; with their points 0, +-1, +-2 it is four times as large.

Legend: N images, C input and O output channels, H x W the map, which tiles of 4x4 outputs and 6x6 inputs cover.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
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
_MAX_KERNEL_VALUES = 10_000_000
"""Of the transformed weights that are in memory at once, 40 MB."""
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


def prefers_channels_last(maps: Tensor, out_channels: int) -> bool:
    """Whether 3x3 convolutions of ``maps`` to ``out_channels`` are faster in the channels-last format."""
    device = maps.device.type
    if device not in ("cpu", "cuda"):
        return False
    # Matrix units compute in this format; other formats are converted in every convolution.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else maps.dtype
    return dtype in (torch.bfloat16, torch.float16) or suits_winograd(maps, out_channels)


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1, on large maps of a CPU by Winograd's algorithm."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        if _takes_winograd(maps, self.out_channels):
            return _convolve(maps, self.weight, self.bias)
        return super().forward(maps)


class TransposedConv6x6(nn.ConvTranspose2d):
    """6x6 transposed convolution of stride 2, on large maps of a CPU as a 3x3 convolution with pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 6, stride=2, padding=2)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        if output_size is not None or not _takes_winograd(maps, 4 * self.out_channels):
            return super().forward(maps, output_size)
        # An output in row 2y + a has the kernel's row a + 2 - 2d on the map's row y + d, for d = -1, 0, 1.
        kernel = self.weight.unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return F.pixel_shuffle(_convolve(maps, kernel.flatten(0, 2), bias), 2)


def _takes_winograd(maps: Tensor, out_channels: int) -> bool:
    """``suits_winograd`` for a map in the channels-last format; the conversion of one map alone would not pay."""
    return maps.is_contiguous(memory_format=torch.channels_last) and suits_winograd(maps, out_channels)


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    parts = weight.chunk(math.ceil(36 * weight.shape[0] * weight.shape[1] / _MAX_KERNEL_VALUES))
    results: list[Tensor] = [_Winograd.apply(maps, part) for part in parts]
    result = torch.cat(results, dim=1) if len(results) > 1 else results[0]
    return result if bias is None else result.add_(bias[:, None, None])


class _Winograd(torch.autograd.Function):
    """(N, C, H, W), (O, C, 3, 3) -> (N, O, H, W) in channels-last format; the gradients take the same way."""

    @staticmethod
    def forward(maps: Tensor, weight: Tensor) -> Tensor:
        """Convolution with padding 1."""
        images, _, height, width = maps.shape
        shape = (images, weight.shape[0], _round_up(height), _round_up(width))
        result = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)
        kernels, (inputs_matrix, _, outputs_matrix) = _transform_weight(weight), _matrices(maps.dtype)
        inputs, outputs = _input_tiles(maps), _output_tiles(result.permute(0, 2, 3, 1))
        for part in _strips(outputs):
            products = _transform(inputs_matrix, inputs[part]) @ kernels
            outputs[part].copy_(_transform(outputs_matrix, products).view(outputs[part].shape))
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
    inputs, outputs = _input_tiles(maps), _output_tiles(_pad(gradient, 0))
    inputs_matrix, kernel_matrix, outputs_matrix = _matrices(maps.dtype)
    total = maps.new_zeros(36, maps.shape[1], gradient.shape[1])
    for part in _strips(outputs):
        total.baddbmm_(_transform(inputs_matrix, inputs[part]).mT, _transform(outputs_matrix.T, outputs[part]))
    kernel = _transform(kernel_matrix.T, total)
    return kernel.view(3, 3, *kernel.shape[1:]).permute(3, 2, 0, 1)


def _strips(tiles: Tensor) -> Iterator[tuple[slice, ...]]:
    """Indices of parts of a view (a, b, N, rows, columns, C) with about ``_STRIP`` tiles: of images and rows."""
    images, rows, columns = tiles.shape[2:5]
    image_step, row_step = max(1, _STRIP // (rows * columns)), max(1, min(rows, _STRIP // columns))
    for image in range(0, images, image_step):
        for row in range(0, rows, row_step):
            yield slice(None), slice(None), slice(image, image + image_step), slice(row, row + row_step)


def _round_up(size: int) -> int:
    """The least multiple of the side of a tile."""
    return 4 * math.ceil(size / 4)


def _pad(maps: Tensor, border: int) -> Tensor:
    """(N, C, H, W) -> (N, H', W', C): whole tiles with a border, zero outside the map."""
    images, channels, height, width = maps.shape
    shape = [_round_up(size) + 2 * border for size in (height, width)]
    padded = maps.new_zeros(images, *shape, channels)
    padded[:, border : border + height, border : border + width] = maps.permute(0, 2, 3, 1)
    return padded


def _input_tiles(maps: Tensor) -> Tensor:
    """A view (6, 6, N, rows, columns, C) of the padded map (N, C, H, W)."""
    return _pad(maps, 1).unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)


def _output_tiles(maps: Tensor) -> Tensor:
    """A view (4, 4, N, rows, columns, O) of a map (N, 4 * rows, 4 * columns, O)."""
    return maps.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).permute(2, 4, 0, 1, 3, 5)


def _transform(matrix: Tensor, values: Tensor) -> Tensor:
    """(K, J), values whose first dimensions are J positions of a tile and whose last is C -> (K, tiles, C)."""
    return (matrix @ values.reshape(matrix.shape[1], -1)).view(len(matrix), -1, values.shape[-1])


def _transform_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O)."""
    return _transform(_matrices(weight.dtype)[1], weight.permute(2, 3, 1, 0))


@cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Kronecker squares of B^T (36, 36), G (36, 9) and A^T (16, 36) in the paper, for both dimensions of a tile."""
    a, b = _A**2, _B**2
    first = [a * b, 0.0, -(a + b), 0.0, 1.0, 0.0]
    inputs, kernel, outputs = [first], [[1 / (a * b), 0.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]]
    for point, other in ((_A, b), (-_A, b), (_B, a), (-_B, a)):
        inputs.append([0.0, -other * point, -other, point, 1.0, 0.0])
        kernel.append([point**k / (2 * point**2 * (point**2 - other)) for k in range(3)])
        outputs.append([point**k for k in range(4)])
    matrices = (
        torch.tensor(rows, dtype=torch.float64, device="cpu")
        for rows in (
            [*inputs, [0.0, *first[:-1]]],
            [*kernel, [0.0, 0.0, 1.0]],
            list(zip(*outputs, (0.0, 0.0, 0.0, 1.0), strict=True)),
        )
    )
    inputs_square, kernel_square, outputs_square = (torch.kron(matrix, matrix).to(dtype) for matrix in matrices)
    return inputs_square, kernel_square, outputs_square
