"""ImageNet ResNets and ResNeXts that detectron2 uses as initial weights.

Files of MSRA and FAIR come from Caffe2 (``R-50.pkl``: names such as ``res2_0_branch2a_w``, BGR in 0..255, batch norm as
scale and shift only). Converted files of torchvision have the names of detectron2's detectors: RGB, with batch norm
statistics, stride in the 3x3 convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import timm
import torch
from torch import Tensor

from afictl.backbones.resnet import resnet_key
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.pixels import MSRA, RESNEXT, TORCHVISION, Pixels

_BRANCHES = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_KINDS = {
    "w": "weight",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",
}
_BLOCK = re.compile(r"res(\d+)_(\d+)_(branch1|branch2[abc])_(w|bn_s|bn_b|bn_rm|bn_riv)")
_STEM = re.compile(r"(?:conv1_(w)|res_conv1_(bn_s|bn_b|bn_rm|bn_riv))")
# Classifiers, and the bias before the first batch norm of R-50, which detectron2 ignores too.
_UNUSED = re.compile(r"(fc1000|pred)_[wb]$|stem\.fc\.|conv1_b$")


@dataclass(frozen=True)
class PlainResNet:
    """An ImageNet ResNet or ResNeXt under detectron2's names, without its classifier."""

    tensors: dict[str, Tensor]
    pixels: Pixels
    stride_in_1x1: bool | None
    """None for blocks without 1x1 convolutions."""


def find_plain_resnet(tensors: Mapping[str, Tensor]) -> PlainResNet | None:
    """The network; None for tensors of another layout."""
    names = {_detectron2_name(name): value for name, value in tensors.items() if not _UNUSED.match(name)}
    names = {name.removeprefix(BOTTOM_UP): value for name, value in names.items()}
    if "stem.conv1.weight" not in names or "res2.0.conv1.weight" not in names:
        return None
    if "res2.0.conv3.weight" not in names or _has_statistics(names):
        stride = False if "res2.0.conv3.weight" in names else None
        return PlainResNet(names, TORCHVISION, stride)
    conv2 = names.get("res2.0.conv2.weight")
    if conv2 is not None and conv2.ndim == 4 and conv2.shape[1] < conv2.shape[0]:  # groups
        return PlainResNet(names, RESNEXT, False)
    return PlainResNet(names, MSRA, True)


def to_timm(tensors: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """detectron2's ``tensors`` under the names of timm's ``network``; others keep their names."""
    with torch.device("meta"):
        expected = timm.create_model(network, pretrained=False).state_dict()
    remaining = dict(tensors)
    renamed: dict[str, Tensor] = {}
    for name, like in expected.items():
        value = remaining.pop(resnet_key(name), None)
        if value is None and name.endswith("running_mean"):
            value = torch.zeros(like.shape)
        if value is None and name.endswith("running_var"):
            value = torch.ones(like.shape)
        if value is not None:
            renamed[name] = value
    return renamed | remaining


def _detectron2_name(name: str) -> str:
    """detectron2's name for Caffe2's; other names are unchanged."""
    block, stem = _BLOCK.fullmatch(name), _STEM.fullmatch(name)
    if block:
        stage, index, branch, kind = block.groups()
        return f"res{stage}.{index}.{_BRANCHES[branch]}.{_KINDS[kind]}"
    return f"stem.conv1.{_KINDS[stem[1] or stem[2]]}" if stem else name


def _has_statistics(tensors: Mapping[str, Tensor]) -> bool:
    """Whether batch norm has running statistics: frozen norms without them are saved with a variance of 1."""
    variance = tensors.get("stem.conv1.norm.running_var")
    return variance is not None and bool(((variance - 1).abs() > 1e-3).any())
