"""Image classifiers, and backbones without their class layer, recognised by their tensor names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from afictl.weights.layouts.msra import find_plain_resnet
from afictl.weights.wrappers import unwrapped_variants

_CLASS_LAYERS = re.compile(r"(fc|classifier|classifier\.\d+|head|head\.fc|head\.l|heads\.head|last_linear)\.weight")
_BACKBONES = (
    {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"},  # ResNet
    {"conv_stem", "bn1", "blocks", "conv_head", "bn2"},  # EfficientNet and MobileNet
    {"patch_embed", "layers", "norm"},  # Swin
    {"stem", "stages", "norm_pre"},  # ConvNeXt
)
"""First parts of the tensor names of backbones without a class layer, in timm and torchvision."""


def is_classifier(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of an image classifier, or of its backbone alone, in any wrapper."""
    variants = unwrapped_variants(tensors, backbone=True)
    return find_plain_resnet(tensors) is not None or any(_has_class_layer(v) or _is_backbone(v) for v in variants)


def _has_class_layer(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is a class layer at the top level, and a convolution of colour images."""
    has_stem = any(value.ndim == 4 and value.shape[1] == 3 for value in tensors.values())
    return has_stem and any(value.ndim == 2 and _CLASS_LAYERS.fullmatch(name) for name, value in tensors.items())


def _is_backbone(tensors: Mapping[str, Tensor]) -> bool:
    parts = {name.partition(".")[0] for name in tensors}
    return len(parts) > 1 and any(parts <= names for names in _BACKBONES)
