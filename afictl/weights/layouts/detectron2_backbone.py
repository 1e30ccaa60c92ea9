"""Which backbone a detectron2 checkpoint holds, told by the names and shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from afictl.errors import UserError
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.pixels import AFIGAN, MSRA, RESNEXT, Pixels

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_BASIC_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_RESNESTS = {50: "resnest50d.in1k", 101: "resnest101e.in1k"}
_SWIN_T = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_SWIN_L = {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12}


@dataclass(frozen=True)
class FoundBackbone:
    """A backbone as a preset tells it."""

    short: str
    """Its part in the names of presets."""
    name: str
    """timm's."""
    pixels: Pixels
    """What it is usually trained with."""
    options: dict[str, Any] = field(default_factory=dict)
    stride_in_1x1: bool = False
    """Not to be seen in tensors: what is usual."""
    batch_norm: bool = False
    """Its norms count batches: they were trained."""


def numbers(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand in the group of ``pattern`` among the names that start with it."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def find_backbone(tensors: Mapping[str, Tensor]) -> FoundBackbone:
    """Raises UserError for a network that is no ResNet, ResNeXt, ResNeSt or Swin known here."""
    if f"{BOTTOM_UP}patch_embed.proj.weight" in tensors:
        return _swin(tensors)
    depths = tuple(numbers(tensors, rf"backbone\.bottom_up\.res{i}\.(\d+)\.") for i in range(2, 6))
    first = f"{BOTTOM_UP}res2.0."
    if f"{first}conv3.weight" not in tensors:
        if depths not in _BASIC_DEPTHS:
            raise _unknown(tensors)
        depth = _BASIC_DEPTHS[depths]
        return FoundBackbone(f"r{depth}", f"resnet{depth}.tv_in1k", MSRA, batch_norm=_counts(tensors))
    if depths not in _DEPTHS:
        raise _unknown(tensors)
    depth = _DEPTHS[depths]
    if f"{first}conv2.conv.weight" in tensors:
        if depth not in _RESNESTS:
            raise _unknown(tensors)
        return FoundBackbone(f"s{depth}", _RESNESTS[depth], AFIGAN, batch_norm=_counts(tensors))
    return _resnet(depth, tensors.get(f"{first}conv2.weight"), _counts(tensors))


def _resnet(depth: int, middle: Tensor | None, batch_norm: bool) -> FoundBackbone:
    if middle is not None and middle.ndim == 4 and 0 < middle.shape[1] < middle.shape[0]:  # groups
        groups, width = middle.shape[0] // middle.shape[1], middle.shape[1]
        name = f"resnext{depth}_{groups}x{width}d"
        return FoundBackbone(f"x{depth}", name, RESNEXT, batch_norm=batch_norm)
    return FoundBackbone(f"r{depth}", f"resnet{depth}.tv_in1k", MSRA, stride_in_1x1=True, batch_norm=batch_norm)


def _swin(tensors: Mapping[str, Tensor]) -> FoundBackbone:
    patches = tensors[f"{BOTTOM_UP}patch_embed.proj.weight"]
    tables = [tensors.get(f"{BOTTOM_UP}layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(4)]
    if patches.ndim != 4 or any(table is None or table.ndim != 2 for table in tables):
        raise _unknown(tensors)
    shapes = [table.shape for table in tables if table is not None]
    options = {
        "embed_dim": patches.shape[0],
        "depths": [numbers(tensors, rf"backbone\.bottom_up\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4)],
        "num_heads": [heads for _, heads in shapes],
        "window_size": (math.isqrt(shapes[0][0]) + 1) // 2,  # a table has (2 window - 1)^2 rows
    }
    if options == _SWIN_L:
        return FoundBackbone("swin-l", "swin_large_patch4_window12_384.ms_in22k", AFIGAN)
    if options == _SWIN_T:
        return FoundBackbone("swin-t", "swin_tiny_patch4_window7_224.ms_in1k", AFIGAN)
    return FoundBackbone("swin-t", "swin_tiny_patch4_window7_224", AFIGAN, options)


def _counts(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(f"{BOTTOM_UP}res") and name.endswith("num_batches_tracked") for name in tensors)


def _unknown(tensors: Mapping[str, Tensor]) -> UserError:
    first = min((name for name in tensors if name.startswith(BOTTOM_UP)), default=BOTTOM_UP)
    return UserError(
        f"a detectron2 checkpoint with a backbone that is not known here ({first}, ...); "
        "known are ResNets, ResNeXts, ResNeSts and Swin Transformers"
    )
