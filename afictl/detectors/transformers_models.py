"""transformers' object-detection models with a hybrid encoder, built by transformers from their configurations.

A preset may change the norms of the backbone and what concerns detections alone; any other change is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForObjectDetection

from afictl.detectors.adapter import AdaptedDetector, changed_settings
from afictl.detectors.transformers_parts import ConvEncoderView, HybridEncoderView, QueryHead, require_positions
from afictl.errors import UserError, one_line
from afictl.integrations import substitute_interpolator
from afictl.interpolators import Interpolator
from afictl.presets import Preset
from afictl.presets.architecture import TransformersConfig
from afictl.presets.transformers_presets import model_values, read_config

_CHANGEABLE = {
    "backbone.norm",
    *(f"detector.{key}" for key in ("source", "score_threshold", "nms_threshold", "max_detections")),
}


def transformers_detector(preset: Preset, num_classes: int, interpolator: Interpolator) -> AdaptedDetector:
    """The model of ``preset.detector.source`` with random weights and ``interpolator`` in its encoder.

    Args:
        num_classes: K.

    Raises:
        UserError: no such configuration, a setting that the model cannot have, an encoder without enlargement, images
            with fewer positions than queries, or an interpolator of another width or one that needs the fine map.
    """
    source = preset.detector
    assert isinstance(source, TransformersConfig)
    config: Any = read_config(source.source)
    _require_supported(preset, source.source)
    config.num_labels = num_classes
    config.freeze_backbone_batch_norms = preset.backbone.norm == "frozen-batch"
    config.anchor_image_size = None  # for any size of images; the anchors of one size are the same
    detection_model = _build(config, preset.name)
    model = detection_model.model
    strides = _strides(config.feat_strides, preset.name)
    require_positions(_fewest_positions(preset, config.feat_strides), config)
    num_upsamplers = substitute_interpolator(model.encoder, interpolator, probe=(_probe(model.encoder, config),))
    widths = model.backbone.intermediate_channel_sizes
    names = [level.replace("p", "res") for level in strides]
    backbone = ConvEncoderView(
        preset.backbone.name,
        model.backbone,
        dict(zip(names, widths, strict=True)),
        dict(zip(names, strides.values(), strict=True)),
    )
    channels = config.encoder_hidden_dim
    neck = HybridEncoderView(model.encoder_input_proj, model.encoder, channels, strides, num_upsamplers)
    head = QueryHead(detection_model, source.score_threshold, source.max_detections)
    return AdaptedDetector(preset, detection_model, backbone, neck, head, num_classes)


def _require_supported(preset: Preset, source: str) -> None:
    """Refuse a setting that differs from the configuration's and would be ignored."""
    fixed = Preset.model_validate({"name": "", **model_values(source)})
    for name, expected, value in changed_settings(preset, fixed):
        if name not in _CHANGEABLE:
            raise UserError(
                f"{preset.name}: {name} is {expected!r} in the model of transformers and cannot be {value!r} here; "
                "change it in a configuration of your own"
            )


def _build(config: Any, name: str) -> Any:
    try:
        return AutoModelForObjectDetection.from_config(config)
    except Exception as error:  # a wrong value can fail anywhere in transformers' constructors
        reason = one_line(error)
        raise UserError(f"{name}: transformers cannot build it: {type(error).__name__}: {reason:.200}") from error


def _strides(strides: Sequence[int], name: str) -> dict[str, int]:
    """Level -> stride, finest first."""
    levels = {f"p{stride.bit_length() - 1}": stride for stride in strides}
    first = strides[0]
    if list(strides) != [first << i for i in range(len(strides))] or first & (first - 1):
        raise UserError(f"{name}: feat_strides: a pyramid has strides such as [8, 16, 32], not {strides!s:.60}")
    return levels


def _fewest_positions(preset: Preset, strides: Sequence[int]) -> int:
    """Number of positions of all maps of the smallest square image."""
    side = min(*preset.input.min_sizes, preset.input.test_size)
    padded = math.ceil(side / max(strides)) * max(strides)
    return sum((padded // stride) ** 2 for stride in strides)


def _probe(encoder: nn.Module, config: Any) -> list[torch.Tensor]:
    """Maps of a small image as the encoder reads them."""
    like, count = next(encoder.parameters()), len(config.feat_strides)
    sizes = [(2 << i, 3 << i) for i in reversed(range(count))]
    return [like.new_zeros(1, config.encoder_hidden_dim, height, width) for height, width in sizes]
