"""Faster and Mask R-CNN of mmdetection (https://github.com/open-mmlab/mmdetection, from 2.0) with a ResNet and an FPN.

Beside the tensor names they differ from detectron2's in the initial weights of the backbone, torchvision's: images are
RGB divided by the standard deviation, and the stride is in the 3x3 convolutions ("pytorch" style).
"""

from __future__ import annotations

import re
from dataclasses import replace

from afictl.backbones.resnet import resnet_key
from afictl.errors import UserError
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import describe_foreign
from afictl.weights.layouts.detectron2_backbone import describe_backbone
from afictl.weights.layouts.detectron2_detectors import derive_detector
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.pixels import TORCHVISION

_REQUIRED_TENSORS = ("backbone.layer1.0.conv1.weight", "neck.lateral_convs.0.conv.weight", "rpn_head.rpn_conv.weight")
_PREFIXES = {
    "rpn_head.rpn_conv.": "proposal_generator.rpn_head.conv.",
    "rpn_head.rpn_cls.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn_head.rpn_reg.": "proposal_generator.rpn_head.anchor_deltas.",
    "roi_head.bbox_head.shared_fcs.0.": "roi_heads.box_head.fc1.",
    "roi_head.bbox_head.shared_fcs.1.": "roi_heads.box_head.fc2.",
    "roi_head.bbox_head.fc_cls.": "roi_heads.box_predictor.cls_score.",
    "roi_head.bbox_head.fc_reg.": "roi_heads.box_predictor.bbox_pred.",
    "roi_head.mask_head.upsample.": "roi_heads.mask_head.deconv.",
    "roi_head.mask_head.conv_logits.": "roi_heads.mask_head.predictor.",
}
_LATERAL = re.compile(r"neck\.(lateral|fpn)_convs\.(\d+)\.conv\.")
_MASK_CONV = re.compile(r"roi_head\.mask_head\.convs\.(\d+)\.conv\.")
_NOTE = (
    "assumed: RGB pixels and strides in the 3x3 convolutions, mmdetection's pytorch style; "
    "its caffe style is not supported"
)


def translate_mmdetection(checkpoint: Checkpoint) -> Checkpoint | None:
    """A detector of this layout under afictl's tensor names, with a preset derived from its tensors.

    Raises:
        UserError: an unsupported backbone.
    """
    if not all(name in checkpoint.tensors for name in _REQUIRED_TENSORS):
        return None
    tensors = {_detectron2_key(name): value for name, value in checkpoint.tensors.items()}
    try:
        # Its norms are trained in eval mode: only their scale and shift change.
        backbone = replace(describe_backbone(tensors), stride_in_1x1=False, batch_norm=False)
        preset, num_classes, renamed = derive_detector(tensors, backbone, TORCHVISION)
        metadata = describe_foreign(preset, num_classes, "a detector of mmdetection", [_NOTE])
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    return replace(checkpoint, tensors=renamed, metadata=metadata)


def _detectron2_key(name: str) -> str:
    if name.startswith("backbone."):
        return BOTTOM_UP + resnet_key(name.removeprefix("backbone."))
    for prefix, detectron2_prefix in _PREFIXES.items():
        if name.startswith(prefix):
            return detectron2_prefix + name.removeprefix(prefix)
    name = _MASK_CONV.sub(lambda match: f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.", name)
    kinds = {"lateral": "lateral", "fpn": "output"}
    return _LATERAL.sub(lambda match: f"backbone.fpn_{kinds[match[1]]}{int(match[2]) + 2}.", name)
