"""Maps from afictl's tensor names to those of detectron2 and of the public AFI-GAN, which is built on it."""

from __future__ import annotations

import re

from afictl.backbones.resnet import resnet_key
from afictl.presets import Preset

BOTTOM_UP = "backbone.bottom_up."
"""Prefix of the backbone in a detectron2 detector with a feature pyramid."""


def detector_key(name: str, preset: Preset) -> str | None:
    """detectron2's name of a tensor of the detector of ``preset``; None if detectron2 does not store it."""
    part, _, rest = name.partition(".")
    if part == "neck":
        return f"backbone.{_NECKS[preset.neck.kind](rest)}"
    if part == "backbone":
        return BOTTOM_UP + backbone_key(rest.removeprefix("net."), preset.backbone.name)
    dense = preset.detector.kind in ("retinanet", "fcos")
    return dense_key(rest) if dense else rcnn_key(rest)


def backbone_key(name: str, network: str) -> str:
    """detectron2's name of a tensor of timm's ``network``."""
    if network.startswith("swin"):
        return swin_key(name)
    return resnest_key(name) if network.startswith("resnest") else resnet_key(name)


_GENERATOR = {
    "head": "Generators.0.0.0",
    "fuse": "Generators.0.2.0",
    "enlarge": "Generators.0.3.0",
    "tail": "Generators.0.4.0",
}


def generator_key(name: str) -> str:
    """AFI-GAN's name of a tensor of ``AFInterpolator``."""
    part, _, rest = name.partition(".")
    if part in _GENERATOR:
        return f"{_GENERATOR[part]}.{rest}"
    _, block, conv, *number = name.removesuffix(".weight").split(".")
    prefix = f"Generators.0.1.RDBs.{block}"
    return f"{prefix}.conv5.weight" if conv == "merge" else f"{prefix}.conv{int(number[0]) + 1}.0.weight"


def discriminator_key(name: str) -> str:
    """AFI-GAN's name of a tensor of ``PatchDiscriminator``."""
    part, _, rest = name.partition(".")
    if part == "logits":
        return f"Discriminators.0.3.0.{rest}"
    block, _, rest = rest.partition(".")
    return f"Discriminators.0.{block}.0." + ("norm." if part == "norms" else "") + rest


_FPN = {"lateral_convs": "fpn_lateral", "output_convs": "fpn_output"}
_PAFPN = {"lateral_convs": "fpn_lateral", "output_convs": "pafpn_output", "downsample_convs": "pafpn_downsample"}


def fpn_key(name: str) -> str:
    """detectron2's name of a tensor of ``FPN``; AFI-GAN's of its interpolator."""
    return _pyramid_key(name, _FPN)


def pafpn_key(name: str) -> str:
    """AFI-GAN's name of a tensor of ``PAFPN``."""
    return _pyramid_key(name, _PAFPN)


def _pyramid_key(name: str, parts: dict[str, str]) -> str:
    part, _, rest = name.partition(".")
    if part == "interpolator":
        return f"srf_module.{generator_key(rest)}"
    if part == "top":
        return f"top_block.{rest}"
    level, _, rest = rest.partition(".")
    return f"{parts[part]}{level[1:]}." + rest.replace("0.", "").replace("1.", "norm.")


def bifpn_key(name: str) -> str:
    """AFI-GAN's name of a tensor of a ``BiFPN`` of separable blocks."""
    part, _, rest = name.partition(".")
    if part == "interpolator":
        return f"srf_module.{generator_key(rest)}"
    if part == "inputs":
        rest = rest.replace("laterals.p6.0", "top_block.p6.conv").replace("laterals.p6.1", "top_block.p6.norm")
        return "before_bifpn." + re.sub(r"skips\.(p\d)", r"\1_skip", rest.replace("laterals.p", "lateral"))
    layer, path, level, node, *block = rest.split(".")
    if node == "weights":
        return f"BiFPNLayer_{layer}_{level}_{'w1' if path == 'top_down' else 'w2'}"
    direction = "up" if path == "top_down" else "down"
    step = {"1": "depthwise", "2": "pointwise", "3": "norm"}[block[0]]
    return f"BiFPNLayer_{layer}_conv{level[1]}_{direction}.{step}.{block[1]}"


_NECKS = {"fpn": fpn_key, "pafpn": pafpn_key, "bifpn": bifpn_key}
_RPN = {"conv.0.0": "conv", "cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}


def rcnn_key(name: str) -> str:
    """detectron2's name of a tensor of ``RCNNHead``."""
    if name.startswith("rpn."):
        part, _, rest = name.removeprefix("rpn.head.").rpartition(".")
        return f"proposal_generator.rpn_head.{_RPN[part]}.{rest}"
    name = re.sub(r"box_head\.(\d\.)?(?:fc6|5)\.", r"box_head.\1fc1.", name)
    name = re.sub(r"box_head\.(\d\.)?fc7\.", r"box_head.\1fc2.", name)
    # convolution and batch norm of block n, also of one of several box heads
    name = re.sub(r"(box_head\.(?:\d\.)?)(\d)\.([01])\.(?!\d)", lambda m: m[1] + _conv("conv", m[2], m[3]), name)
    name = re.sub(r"(mask_head\.)(\d)\.([01])\.", lambda m: m[1] + _conv("mask_fcn", m[2], m[3]), name)
    return name.replace("mask_predictor.logits.", "mask_head.predictor.").replace("mask_predictor.", "mask_head.")


def _conv(kind: str, block: str, part: str) -> str:
    return f"{kind}{int(block) + 1}." + ("norm." if part == "1" else "")


_DENSE = {
    "class_tower": "cls_subnet",
    "box_tower": "bbox_subnet",
    "class_logits": "cls_score",
    "box_deltas": "bbox_pred",
    "box_distances": "bbox_pred",
    "centerness": "ctrness",
}


def dense_key(name: str) -> str | None:
    """detectron2's name of a tensor of ``RetinaNetHead`` or ``FCOSHead``; None if not stored there."""
    part, _, rest = name.partition(".")
    return f"head.{_DENSE[part]}.{rest}" if part in _DENSE else None


_DEEP_STEM = {"conv1.0": "1", "conv1.1": "1.norm", "conv1.3": "2", "conv1.4": "2.norm", "conv1.6": "3", "bn1": "3.norm"}


def resnest_key(name: str) -> str:
    """AFI-GAN's name of a tensor of timm's ResNeSt."""
    part, _, last = name.rpartition(".")
    if part in _DEEP_STEM:
        return f"stem.conv1_{_DEEP_STEM[part]}.{last}"
    # the shortcut starts with average pooling
    return resnet_key(re.sub(r"downsample\.([12])\.", lambda match: f"downsample.{int(match[1]) - 1}.", name))


def swin_key(name: str) -> str:
    """Microsoft's name of a tensor of ``Swin``; there patch merging is the end of a stage."""
    name = re.sub(r"^norms\.res(\d)", lambda match: f"norm{int(match[1]) - 2}", name)
    name = re.sub(r"^layers_(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
    return name.replace("layers_", "layers.")
