"""Detectors of torchvision with a ResNet-50 and a feature pyramid: its released weights, and state dicts of its models.

They become presets ``torchvision:NAME``, for the model itself is the detector then. torchvision's own loading renames
the tensors of files that are older than its present names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from afictl.detectors import build_detector
from afictl.errors import UserError, one_line
from afictl.presets import Preset, load_preset
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import describe_foreign

_BODY, _NECK = "backbone.body.", "backbone.fpn."
_CLASSES = ("roi_heads.box_predictor.cls_score.bias", "head.classification_head.cls_logits.bias")
_COCO_IDS = 90
_EPS = 1e-5


def translate(checkpoint: Checkpoint) -> Checkpoint | None:
    """A detector of this layout under the names of ``torchvision:NAME``.

    Raises:
        UserError: a detector of this layout that is none of those presets.
    """
    tensors = checkpoint.tensors
    if not all(any(name.startswith(part) for name in tensors) for part in (_BODY, _NECK)):
        return None
    try:
        name = _model_name(tensors)
        num_classes = _num_classes(tensors)
        preset = load_preset(f"torchvision:{name}", [f"backbone.norm={_norm(tensors)}"])
        ours = _present_names(_without_eps(tensors, name, num_classes), preset, num_classes)
        description = describe_foreign(preset, num_classes, f"a {name} of torchvision")
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    if num_classes == _COCO_IDS:
        description |= _coco_classes()
    return Checkpoint(checkpoint.path, ours, description)


def _model_name(tensors: Mapping[str, Tensor]) -> str:
    """torchvision's name of the model, by what is in it."""
    deep = f"{_BODY}layer3.5.conv3.weight" in tensors and f"{_BODY}layer3.6.conv3.weight" not in tensors
    if not deep or any(name.startswith("roi_heads.keypoint_") for name in tensors):
        raise UserError(
            "a detector of torchvision with another backbone than ResNet-50, or with keypoints; "
            "afictl model list shows those that can be loaded"
        )
    if "head.regression_head.bbox_ctrness.weight" in tensors:
        return "fcos_resnet50_fpn"
    if "head.classification_head.cls_logits.weight" in tensors:
        second = "head.classification_head.conv.0.1.weight" in tensors  # the scale of a group norm
        return f"retinanet_resnet50_fpn{'_v2' if second else ''}"
    kind = "maskrcnn" if "roi_heads.mask_predictor.mask_fcn_logits.weight" in tensors else "fasterrcnn"
    second = "roi_heads.box_head.fc6.weight" not in tensors  # there it begins with convolutions
    return f"{kind}_resnet50_fpn{'_v2' if second else ''}"


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    """Classes without torchvision's index 0."""
    found = [tensors[name] for name in _CLASSES if name in tensors]
    if not found or found[0].ndim != 1:
        raise UserError(f"a detector of torchvision without its class layer, {' or '.join(_CLASSES)}")
    boxes = tensors.get("head.regression_head.bbox_reg.bias")
    anchors = 1 if boxes is None else max(1, boxes.numel() // 4)
    count = found[0].numel() // anchors - 1
    if count < 1:
        raise UserError("a detector of torchvision with no class beside its index 0")
    return count


def _norm(tensors: Mapping[str, Tensor]) -> str:
    """Only a batch norm that was trained counts its batches."""
    return "batch" if f"{_BODY}bn1.num_batches_tracked" in tensors else "frozen-batch"


def _without_eps(tensors: Mapping[str, Tensor], name: str, num_classes: int) -> dict[str, Tensor]:
    """torchvision's first COCO weights, brought from an eps of 0 in their norms to the usual one.

    They were trained with a frozen batch norm that knew no eps, and torchvision sets it to 0 where it downloads them
    (``overwrite_eps``). They are told by their names, which later files do not have, and by their 90 category ids.
    The scale takes up the difference: w / sqrt(v) = w' / sqrt(v + eps).
    """
    old = f"{_NECK}inner_blocks.0.weight" in tensors and num_classes == _COCO_IDS
    if not old or name.startswith("fcos") or _norm(tensors) == "batch":
        return dict(tensors)
    changed = {}
    for key, variance in tensors.items():
        scale = key.removesuffix("running_var") + "weight"
        if key.startswith(_BODY) and key.endswith("running_var") and scale in tensors:
            exact = variance.double().clamp(min=1e-30)
            changed[scale] = (tensors[scale].double() * ((exact + _EPS) / exact).sqrt()).to(tensors[scale].dtype)
    return {**tensors, **changed}


def _present_names(tensors: Mapping[str, Tensor], preset: Preset, num_classes: int) -> dict[str, Tensor]:
    """The tensors as torchvision's own loading understands them; what has no place keeps its name."""
    with torch.device("meta"):
        model: Any = build_detector(preset, num_classes).model
    try:
        unexpected = set(model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys)
    except RuntimeError as error:
        reason = one_line(error).partition(": ")[2]
        raise UserError(f"not the weights of a {preset.detector.source} of torchvision: {reason:.200}") from None
    held = {f"model.{name}": value for name, value in model.state_dict().items() if not value.is_meta}
    return held | {name: tensors[name] for name in unexpected}


def _coco_classes() -> dict[str, Any]:
    """torchvision's label is COCO's category id; the ids that COCO does not use are called N/A."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    return {"classes": list(names), "category_ids": list(range(1, len(names) + 1))}
