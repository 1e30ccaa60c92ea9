"""The backbone of a detectron2 checkpoint, derived from the names and shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from afictl.errors import UserError
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.pixels import AFIGAN_RESNEST, AFIGAN_SWIN, MSRA, RESNEXT, Pixels

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_BASIC_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_RESNESTS = {50: "resnest50d.in1k", 101: "resnest101e.in1k"}
_SWIN_T = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_SWIN_L = {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12}


@dataclass(frozen=True)
class BackboneDescription:
    """A backbone in the terms of a preset."""

    short: str
    """Its part of preset names, such as ``r50``."""
    name: str
    """timm's model name."""
    pixels: Pixels
    """Pixel statistics of its usual training."""
    options: dict[str, object] = field(default_factory=dict)
    stride_in_1x1: bool = False
    """The usual value, as tensors do not show it."""
    batch_norm: bool = False
    """Whether its norms count batches, hence were trained."""


def count_indices(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Number of distinct values of the first group of ``pattern`` in the names that it matches."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def describe_backbone(tensors: Mapping[str, Tensor]) -> BackboneDescription:
    """Derive the backbone.

    Raises:
        UserError: no supported ResNet, ResNeXt, ResNeSt or Swin Transformer.
    """
    if f"{BOTTOM_UP}patch_embed.proj.weight" in tensors:
        return _swin(tensors)
    depths = tuple(count_indices(tensors, rf"backbone\.bottom_up\.res{i}\.(\d+)\.") for i in range(2, 6))
    first, batch_norm = f"{BOTTOM_UP}res2.0.", _has_counters(tensors)
    if f"{first}conv3.weight" not in tensors:
        if depths not in _BASIC_DEPTHS:
            raise _unknown(tensors)
        depth = _BASIC_DEPTHS[depths]
        return BackboneDescription(f"r{depth}", f"resnet{depth}.tv_in1k", MSRA, batch_norm=batch_norm)
    if depths not in _DEPTHS:
        raise _unknown(tensors)
    depth = _DEPTHS[depths]
    if f"{first}conv2.conv.weight" in tensors:
        if depth not in _RESNESTS:
            raise _unknown(tensors)
        return BackboneDescription(f"s{depth}", _RESNESTS[depth], AFIGAN_RESNEST, batch_norm=batch_norm)
    return _resnet(depth, tensors.get(f"{first}conv2.weight"), batch_norm)


def _resnet(depth: int, conv2: Tensor | None, batch_norm: bool) -> BackboneDescription:
    if conv2 is not None and conv2.ndim == 4 and 0 < conv2.shape[1] < conv2.shape[0]:  # groups
        groups, width = conv2.shape[0] // conv2.shape[1], conv2.shape[1]
        name = f"resnext{depth}_{groups}x{width}d"
        return BackboneDescription(f"x{depth}", name, RESNEXT, batch_norm=batch_norm)
    return BackboneDescription(f"r{depth}", f"resnet{depth}.tv_in1k", MSRA, stride_in_1x1=True, batch_norm=batch_norm)


def _swin(tensors: Mapping[str, Tensor]) -> BackboneDescription:
    patches = tensors[f"{BOTTOM_UP}patch_embed.proj.weight"]
    tables = [tensors.get(f"{BOTTOM_UP}layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(4)]
    if patches.ndim != 4 or any(table is None or table.ndim != 2 for table in tables):
        raise _unknown(tensors)
    shapes = [table.shape for table in tables if table is not None]
    options = {
        "embed_dim": patches.shape[0],
        "depths": [count_indices(tensors, rf"backbone\.bottom_up\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4)],
        "num_heads": [heads for _, heads in shapes],
        "window_size": (math.isqrt(shapes[0][0]) + 1) // 2,  # a table has (2 window - 1)^2 rows
    }
    if options == _SWIN_L:
        return BackboneDescription("swin-l", "swin_large_patch4_window12_384.ms_in22k", AFIGAN_SWIN)
    if options == _SWIN_T:
        return BackboneDescription("swin-t", "swin_tiny_patch4_window7_224.ms_in1k", AFIGAN_SWIN)
    return BackboneDescription("swin-t", "swin_tiny_patch4_window7_224", AFIGAN_SWIN, options)


def _has_counters(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(f"{BOTTOM_UP}res") and name.endswith("num_batches_tracked") for name in tensors)


def _unknown(tensors: Mapping[str, Tensor]) -> UserError:
    first = min((name for name in tensors if name.startswith(BOTTOM_UP)), default=BOTTOM_UP)
    return UserError(
        f"a detectron2 checkpoint with an unsupported backbone ({first}, ...); "
        "supported are ResNets, ResNeXts, ResNeSts and Swin Transformers"
    )
