"""detectron2's R-CNNs and RetinaNet with a feature pyramid, built by detectron2 from its YAML configurations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, RetinaNet, build_model

import afictl.integrations.detectron2  # noqa: F401  # registers backbones that a configuration may name
from afictl.detectors.adapter import AdaptedDetector, changed_settings
from afictl.detectors.detectron2_parts import BottomUpView, Detectron2DenseHead, Detectron2RegionHead, PyramidView
from afictl.errors import UserError, one_line
from afictl.integrations import substitute_interpolator
from afictl.interpolators import Interpolator
from afictl.presets import Preset
from afictl.presets.architecture import Detectron2Config
from afictl.presets.detectron2_configs import read_config
from afictl.presets.detectron2_presets import (
    anchor_lists,
    anchor_sizes,
    changeable_keys,
    in_network_order,
    model_values,
)

_CHANGEABLE = {
    *("backbone.name", "backbone.pretrained"),
    *("neck.interpolators", "detector.source", "detector.anchor_sizes"),
}
"""Settings that every preset may change, beside those of the configuration."""


def detectron2_detector(preset: Preset, num_classes: int, interpolator: Interpolator) -> AdaptedDetector:
    """The model of ``preset.detector.source`` with random weights and ``interpolator`` in its pyramid.

    Args:
        num_classes: K.

    Raises:
        UserError: no such configuration, a setting that the model cannot have, one without a pyramid, or an
            interpolator of another width.
    """
    config = preset.detector
    assert isinstance(config, Detectron2Config)
    cfg = read_config(config.source)
    _require_supported(preset, config.source, cfg)
    _apply(preset, config.anchor_sizes, cfg, num_classes)
    model = _build(cfg, preset.name)
    per_step = preset.neck.interpolators == "per-step"
    num_upsamplers = substitute_interpolator(model, interpolator, per_step=per_step)
    bottom_up, levels = model.backbone.bottom_up, cfg.MODEL.FPN.IN_FEATURES
    backbone = BottomUpView(preset.backbone.name, bottom_up, levels, preset.input, bgr=cfg.INPUT.FORMAT != "RGB")
    neck = PyramidView(model.backbone, num_upsamplers)
    head_type = Detectron2DenseHead if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else Detectron2RegionHead
    head = head_type(model, num_classes, config.segments)
    unsaved = tuple(f"model.{name}" for name in head.unsaved)
    return AdaptedDetector(preset, model, backbone, neck, head, num_classes, unsaved)


def _build(cfg: CfgNode, name: str) -> GeneralizedRCNN | RetinaNet:
    try:
        return build_model(cfg)
    except UserError:
        raise
    except Exception as error:  # a wrong value can fail anywhere in detectron2's constructors
        reason = one_line(error)
        raise UserError(f"{name}: detectron2 cannot build it: {type(error).__name__}: {reason:.200}") from error


def _require_supported(preset: Preset, source: str, cfg: CfgNode) -> None:
    """Refuse a setting that differs from the configuration's and would be ignored."""
    fixed = Preset.model_validate({"name": "", **model_values(source)})
    for name, expected, value in changed_settings(preset, fixed):
        if name not in _CHANGEABLE and name not in changeable_keys(cfg):
            raise UserError(
                f"{preset.name}: {name} is {expected!r} in the configuration and cannot be {value!r} here; "
                "change it in a YAML file of your own"
            )


def _apply(preset: Preset, sizes: Sequence[float], cfg: CfgNode, num_classes: int) -> None:
    """Set the changeable values of ``preset`` in ``cfg``, the anchor ``sizes``, the classes and afictl's defaults."""
    values = preset.model_dump()
    changes: dict[str, object] = {}
    for name, cfg_key in changeable_keys(cfg).items():
        section, key = name.split(".")
        changes[cfg_key] = values[section][key]
    factors = [size / before for size, before in zip(sizes, anchor_sizes(cfg), strict=True)]
    scaled = [[size * factor for size in level] for level, factor in zip(anchor_lists(cfg), factors, strict=False)]
    changes |= {
        "MODEL.ANCHOR_GENERATOR.SIZES": scaled,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.RETINANET.NUM_CLASSES": num_classes,
        "MODEL.PIXEL_MEAN": in_network_order(cfg, preset.input.mean),
        "MODEL.PIXEL_STD": in_network_order(cfg, preset.input.std),
        "MODEL.AFICTL.INTERPOLATOR": "nearest",  # replaced by the preset's
        "MODEL.DEVICE": str(torch.get_default_device()),
        "VIS_PERIOD": 0,
    }
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
