"""Our names of weights -> the keys of the reference modules in ``golden/keys``."""

import re

_GENERATOR = {
    "head": "Generators.0.0.0",
    "fuse": "Generators.0.2.0",
    "enlarge": "Generators.0.3.0",
    "tail": "Generators.0.4.0",
}


def generator_key(name: str) -> str:
    """``AFInterpolator`` -> reference generator."""
    part, _, rest = name.partition(".")
    if part in _GENERATOR:
        return f"{_GENERATOR[part]}.{rest}"
    match = re.fullmatch(r"group\.(\d)\.(?:grow\.(\d)|merge)\.weight", name)
    assert match, name
    block, conv = match.groups()
    prefix = f"Generators.0.1.RDBs.{block}"
    return f"{prefix}.conv5.weight" if conv is None else f"{prefix}.conv{int(conv) + 1}.0.weight"


def discriminator_key(name: str) -> str:
    """``PatchDiscriminator`` -> reference discriminator."""
    part, _, rest = name.partition(".")
    if part == "logits":
        return f"Discriminators.0.3.0.{rest}"
    block, _, rest = rest.partition(".")
    return f"Discriminators.0.{block}.0." + ("norm." if part == "norms" else "") + rest


_FPN = {"laterals": "fpn_lateral", "outputs": "fpn_output"}
_PAFPN = {"laterals": "fpn_lateral", "outputs": "pafpn_output", "halvings": "pafpn_downsample"}


def fpn_key(name: str) -> str:
    """``FPN`` -> reference FPN with the generator."""
    return _pyramid_key(name, _FPN)


def pafpn_key(name: str) -> str:
    """``PAFPN`` -> reference PAFPN with the generator."""
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
    """``BiFPN`` of separable blocks -> reference BiFPN with the generator."""
    part, _, rest = name.partition(".")
    if part == "interpolator":
        return f"srf_module.{generator_key(rest)}"
    if part == "inputs":
        rest = rest.replace("laterals.p6.0", "top_block.p6.conv").replace("laterals.p6.1", "top_block.p6.norm")
        return "before_bifpn." + re.sub(r"skips\.(p\d)", r"\1_skip", rest.replace("laterals.p", "lateral"))
    layer, path, level, node, *rest = rest.split(".")
    if node == "weights":
        return f"BiFPNLayer_{layer}_{level}_{'w1' if path == 'top_down' else 'w2'}"
    direction = "up" if path == "top_down" else "down"
    step = {"1": "depthwise", "2": "pointwise", "3": "norm"}[rest[0]]
    return f"BiFPNLayer_{layer}_conv{level[1]}_{direction}.{step}.{rest[1]}"


_RPN = {"conv.0.0": "conv", "cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}


def rcnn_key(name: str) -> str:
    """``RCNNHead`` -> detectron2's proposal generator and region heads."""
    if name.startswith("rpn."):
        part, _, rest = name.removeprefix("rpn.head.").rpartition(".")
        return f"proposal_generator.rpn_head.{_RPN[part]}.{rest}"
    name = re.sub(r"box_head\.(\d\.)?(?:fc6|5)\.", r"box_head.\1fc1.", name)
    name = re.sub(r"box_head\.(\d\.)?fc7\.", r"box_head.\1fc2.", name)
    # convolution and batch norm of block n, perhaps of one of several box heads
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


def dense_key(name: str) -> str:
    """``RetinaNetHead``, ``FCOSHead`` -> detectron2's."""
    part, _, rest = name.partition(".")
    return f"head.{_DENSE[part]}.{rest}"


def resnet_key(name: str) -> str:
    """timm's ResNet -> detectron2's, as the bottom-up network of a pyramid."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return "backbone.bottom_up." + re.sub(r"(?<!conv2\.)bn(\d)\.", r"conv\1.norm.", name)


_DEEP_STEM = {"conv1.0": "1", "conv1.1": "1.norm", "conv1.3": "2", "conv1.4": "2.norm", "conv1.6": "3", "bn1": "3.norm"}


def resnest_key(name: str) -> str:
    """timm's ResNeSt -> detectron2's, as the bottom-up network of a pyramid."""
    part, _, last = name.rpartition(".")
    if part in _DEEP_STEM:
        return f"backbone.bottom_up.stem.conv1_{_DEEP_STEM[part]}.{last}"
    # the shortcut begins with an average pooling
    return resnet_key(re.sub(r"downsample\.([12])\.", lambda match: f"downsample.{int(match[1]) - 1}.", name))


def swin_key(name: str) -> str:
    """``Swin`` -> Microsoft's, as the bottom-up network of a pyramid; merging ends a stage there."""
    name = re.sub(r"^norms\.res(\d)", lambda match: f"norm{int(match[1]) - 2}", name)
    name = re.sub(r"^layers_(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
    return "backbone.bottom_up." + name.replace("layers_", "layers.")
