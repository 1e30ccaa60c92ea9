"""torchvision's detection models with a ResNet-50 and a feature pyramid, built by torchvision's own functions.

Source: torchvision.models.detection. Their numbers are in ``presets/torchvision``. A preset may change
arguments of the model (sizes of anchors, sampling, thresholds); any other change is refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops.poolers import initLevelMapper

from afictl.backbones.norms import freeze_batch_norm
from afictl.detectors.adapter import AdaptedDetector, changed_settings
from afictl.detectors.torchvision_parts import (
    FPNView,
    ResNetView,
    TorchvisionDenseHead,
    TorchvisionDetector,
    TorchvisionRegionHead,
)
from afictl.errors import UserError
from afictl.integrations import substitute_interpolator
from afictl.interpolators import Interpolator
from afictl.presets import BackboneConfig, Preset, load_preset
from afictl.presets.architecture import AnchorConfig, TorchvisionConfig

_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
"""Modules of the network's stages, in the order of ``frozen_stages``."""

_REGION_ARGUMENTS = {
    "rpn_batch": "rpn_batch_size_per_image",
    "proposals_before_nms_train": "rpn_pre_nms_top_n_train",
    "proposals_before_nms_test": "rpn_pre_nms_top_n_test",
    "proposals_train": "rpn_post_nms_top_n_train",
    "proposals_test": "rpn_post_nms_top_n_test",
    "roi_batch": "box_batch_size_per_image",
    "score_threshold": "box_score_thresh",
    "nms_threshold": "box_nms_thresh",
    "max_detections": "box_detections_per_img",
}
"""Keys of ``detector`` and the names of the arguments in torchvision's two-stage models."""

_DENSE_ARGUMENTS = {
    "candidates": "topk_candidates",
    "score_threshold": "score_thresh",
    "nms_threshold": "nms_thresh",
    "max_detections": "detections_per_img",
}
"""Keys of ``detector`` and the names of the arguments in torchvision's RetinaNet and FCOS."""

_CHANGEABLE = {
    *("backbone.pretrained", "backbone.frozen_stages", "backbone.norm"),
    *("neck.interpolators", "detector.anchor_sizes"),
}
"""Keys that every preset may change, beside the model's arguments."""


def torchvision_detector(preset: Preset, num_classes: int, interpolator: Interpolator) -> AdaptedDetector:
    """The model ``preset.detector.source`` with random weights and ``interpolator`` in its pyramid.

    Args:
        num_classes: K; torchvision counts one more, for its index 0.

    Raises:
        UserError: no such model, a setting that it cannot have, or an interpolator of another width than 256.
    """
    config = preset.detector
    assert isinstance(config, TorchvisionConfig)
    dense = config.source.startswith(("retinanet", "fcos"))
    arguments = _DENSE_ARGUMENTS if dense else _REGION_ARGUMENTS
    _require_supported(preset, config.source, {*arguments})
    model: Any = getattr(detection, config.source)(
        weights=None,
        weights_backbone=None,
        num_classes=1 + num_classes,
        **{argument: getattr(config, key) for key, argument in arguments.items()},
    )
    (model if dense else model.rpn).anchor_generator = _anchors(config)
    if not dense:
        _fix_scales(model.roi_heads)
    _freeze(model.backbone.body, preset.backbone)
    substitute_interpolator(model, interpolator, per_step=preset.neck.interpolators == "per-step")
    backbone = ResNetView(preset.backbone.name, model.backbone.body, model.backbone.fpn)
    neck = FPNView(model.backbone.fpn, 3 if dense else 2)
    head = TorchvisionDenseHead(model) if dense else TorchvisionRegionHead(model.rpn, model.roi_heads)
    return TorchvisionDetector(preset, model, backbone, neck, head, num_classes)


def _require_supported(preset: Preset, source: str, arguments: set[str]) -> None:
    """Refuse a setting that differs from the model's and would be ignored, because it is no argument of the model."""
    changeable = _CHANGEABLE | {f"detector.{key}" for key in arguments}
    for name, fixed, value in changed_settings(preset, load_preset(f"torchvision:{source}")):
        tag_only = name == "backbone.name" and str(value).split(".")[0] == str(fixed).split(".")[0]
        if name not in changeable and not tag_only:
            raise UserError(
                f"{preset.name}: {name} is {fixed!r} in torchvision's {source} and cannot be {value!r}; "
                "use a preset of afictl for another architecture"
            )


def _anchors(config: AnchorConfig) -> AnchorGenerator:
    """torchvision's anchors, with the further sizes of an octave rounded down to whole pixels."""
    steps = [2 ** (i / config.anchors_per_octave) for i in range(1, config.anchors_per_octave)]
    sizes = tuple((size, *(int(size * step) for step in steps)) for size in config.anchor_sizes)
    return AnchorGenerator(sizes, (config.anchor_ratios,) * len(sizes))


def _fix_scales(heads: RoIHeads) -> None:
    """Set the scales of levels, which torchvision infers from its first batch, wrongly from images below 50 pixels."""
    for pool in filter(None, (heads.box_roi_pool, heads.mask_roi_pool)):
        pool.scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        pool.map_levels = initLevelMapper(2, 5)


def _freeze(body: nn.ModuleDict, config: BackboneConfig) -> None:
    """Freeze stages as in ``Backbone``, with their statistics, which torchvision's v2 models continue to update."""
    if config.norm == "frozen-batch":
        freeze_batch_norm(body)
    for name in (name for stage in _STAGES[: config.frozen_stages] for name in stage):
        body[name] = freeze_batch_norm(body[name]).requires_grad_(False)
