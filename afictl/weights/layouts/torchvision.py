"""Detectors of torchvision with a ResNet-50 FPN: released weights, and state dicts of its models.

Their presets are ``torchvision:NAME``: torchvision's model itself is the detector. torchvision's own loading
renames the tensors of older files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from afictl.detectors import build_detector
from afictl.errors import UserError, one_line
from afictl.presets import Preset, load_preset
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.classes import COCO_IDS, coco_category_names
from afictl.weights.description import describe_foreign

_BODY, _NECK = "backbone.body.", "backbone.fpn."
_CLASSES = ("roi_heads.box_predictor.cls_score.bias", "head.classification_head.cls_logits.bias")
_EPS = 1e-5


def translate_torchvision(checkpoint: Checkpoint) -> Checkpoint | None:
    """A detector of this layout under the tensor names of ``torchvision:NAME``.

    Raises:
        UserError: a detector of this layout for which there is no such preset.
    """
    tensors = checkpoint.tensors
    if not all(any(name.startswith(part) for name in tensors) for part in (_BODY, _NECK)):
        return None
    try:
        name = _model_name(tensors)
        num_classes = _num_classes(tensors)
        preset = load_preset(f"torchvision:{name}", [f"backbone.norm={_norm(tensors)}"])
        renamed = _current_names(_without_eps(tensors, name, num_classes), preset, num_classes)
        description = describe_foreign(preset, num_classes, f"torchvision's {name}")
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    if num_classes == COCO_IDS:
        description |= {"classes": coco_category_names(), "category_ids": list(range(1, COCO_IDS + 1))}
    return replace(checkpoint, tensors=renamed, metadata=description)


def _model_name(tensors: Mapping[str, Tensor]) -> str:
    """torchvision's name of the model, derived from its tensors."""
    is_r50 = f"{_BODY}layer3.5.conv3.weight" in tensors and f"{_BODY}layer3.6.conv3.weight" not in tensors
    if not is_r50 or any(name.startswith("roi_heads.keypoint_") for name in tensors):
        raise UserError(
            "a detector of torchvision with another backbone than ResNet-50, or with keypoints; "
            "'afictl model list' shows the supported models"
        )
    if "head.regression_head.bbox_ctrness.weight" in tensors:
        return "fcos_resnet50_fpn"
    if "head.classification_head.cls_logits.weight" in tensors:
        v2 = "head.classification_head.conv.0.1.weight" in tensors  # weight of a group norm
        return f"retinanet_resnet50_fpn{'_v2' if v2 else ''}"
    kind = "maskrcnn" if "roi_heads.mask_predictor.mask_fcn_logits.weight" in tensors else "fasterrcnn"
    v2 = "roi_heads.box_head.fc6.weight" not in tensors  # v2 starts with convolutions
    return f"{kind}_resnet50_fpn{'_v2' if v2 else ''}"


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    """Number of classes without torchvision's background at index 0."""
    biases = [tensors[name] for name in _CLASSES if name in tensors]
    if not biases or biases[0].ndim != 1:
        raise UserError(f"a detector of torchvision without its class layer, {' or '.join(_CLASSES)}")
    boxes = tensors.get("head.regression_head.bbox_reg.bias")
    anchors = 1 if boxes is None else max(1, boxes.numel() // 4)
    count = biases[0].numel() // anchors - 1
    if count < 1:
        raise UserError("a detector of torchvision without a class beside the background")
    return count


def _norm(tensors: Mapping[str, Tensor]) -> str:
    """``batch`` if the norms count batches, which only trained batch norm does."""
    return "batch" if f"{_BODY}bn1.num_batches_tracked" in tensors else "frozen-batch"


def _without_eps(tensors: Mapping[str, Tensor], name: str, num_classes: int) -> dict[str, Tensor]:
    """torchvision's first COCO weights, converted from a norm eps of 0 to the default eps.

    They were trained with a frozen batch norm without eps, which torchvision sets to 0 after the download
    (``overwrite_eps``). They are recognised by tensor names that later files do not have and by their 90 category ids.
    The scale absorbs the difference: w / sqrt(v) = w' / sqrt(v + eps).
    """
    old = f"{_NECK}inner_blocks.0.weight" in tensors and num_classes == COCO_IDS
    if not old or name.startswith("fcos") or _norm(tensors) == "batch":
        return dict(tensors)
    scales = {}
    for key, variance in tensors.items():
        scale = key.removesuffix("running_var") + "weight"
        if key.startswith(_BODY) and key.endswith("running_var") and scale in tensors:
            exact = variance.double().clamp(min=1e-30)
            scales[scale] = (tensors[scale].double() * ((exact + _EPS) / exact).sqrt()).to(tensors[scale].dtype)
    return {**tensors, **scales}


def _current_names(tensors: Mapping[str, Tensor], preset: Preset, num_classes: int) -> dict[str, Tensor]:
    """The tensors renamed by torchvision's own loading; names of tensors without a counterpart are unchanged."""
    with torch.device("meta"):
        model: Any = build_detector(preset, num_classes).model
    try:
        unexpected = set(model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys)
    except RuntimeError as error:
        reason = one_line(error).partition(": ")[2]
        raise UserError(f"not the weights of {preset.name}: {reason:.200}") from None
    loaded = {f"model.{name}": value for name, value in model.state_dict().items() if not value.is_meta}
    return loaded | {name: tensors[name] for name in unexpected}
