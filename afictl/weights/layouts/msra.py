"""ImageNet ResNets and ResNeXts as detectron2 starts from them.

MSRA's and FAIR's come from Caffe2 (``R-50.pkl``: names such as ``res2_0_branch2a_w``, BGR in 0..255, batch norm as a
scale and a shift alone). The same names as in detectron2's detectors are used for torchvision's, converted: RGB, with
batch norm statistics, strides in the 3x3 convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import timm
import torch
from torch import Tensor

from afictl.backbones.detectron2_names import resnet_key
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
# Classifiers; and the bias before R-50's first batch norm, which detectron2 leaves out too.
_UNUSED = re.compile(r"(fc1000|pred)_[wb]$|stem\.fc\.|conv1_b$")


@dataclass(frozen=True)
class PlainResNet:
    """An ImageNet ResNet or ResNeXt in detectron2's names, without its classifier."""

    tensors: dict[str, Tensor]
    pixels: Pixels
    stride_in_1x1: bool | None
    """None for blocks without 1x1 convolutions."""


def find_plain_resnet(tensors: Mapping[str, Tensor]) -> PlainResNet | None:
    """The network, if ``tensors`` are of this layout."""
    names = {_modern(name): value for name, value in tensors.items() if not _UNUSED.match(name)}
    names = {name.removeprefix(BOTTOM_UP): value for name, value in names.items()}
    if "stem.conv1.weight" not in names or "res2.0.conv1.weight" not in names:
        return None
    if "res2.0.conv3.weight" not in names or _has_statistics(names):
        stride = False if "res2.0.conv3.weight" in names else None
        return PlainResNet(names, TORCHVISION, stride)
    middle = names.get("res2.0.conv2.weight")
    if middle is not None and middle.ndim == 4 and middle.shape[1] < middle.shape[0]:  # groups
        return PlainResNet(names, RESNEXT, False)
    return PlainResNet(names, MSRA, True)


def to_timm(tensors: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """detectron2's ``tensors`` under the names of timm's ``network``; what has no place keeps its name."""
    with torch.device("meta"):
        wanted = timm.create_model(network, pretrained=False).state_dict()
    left = dict(tensors)
    ours: dict[str, Tensor] = {}
    for name, own in wanted.items():
        value = left.pop(resnet_key(name), None)
        if value is None and name.endswith("running_mean"):
            value = torch.zeros(own.shape)
        if value is None and name.endswith("running_var"):
            value = torch.ones(own.shape)
        if value is not None:
            ours[name] = value
    return ours | left


def _modern(name: str) -> str:
    """Caffe2's name of a tensor -> detectron2's; others stay."""
    block, stem = _BLOCK.fullmatch(name), _STEM.fullmatch(name)
    if block:
        stage, index, branch, kind = block.groups()
        return f"res{stage}.{index}.{_BRANCHES[branch]}.{_KINDS[kind]}"
    return f"stem.conv1.{_KINDS[stem[1] or stem[2]]}" if stem else name


def _has_statistics(tensors: Mapping[str, Tensor]) -> bool:
    """Whether batch norm has more than a scale and a shift: frozen norms without statistics are saved as 0 and 1."""
    variance = tensors.get("stem.conv1.norm.running_var")
    return variance is not None and bool(((variance - 1).abs() > 1e-3).any())
