"""detectron2's R-CNNs and RetinaNet with a feature pyramid, built by detectron2 from its YAML configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

import afictl.integrations.detectron2  # noqa: F401  # its backbones may be named in a configuration
from afictl.detectors.adapter import AdaptedDetector
from afictl.detectors.detectron2_parts import BottomUpView, Detectron2DenseHead, Detectron2RegionHead, PyramidView
from afictl.errors import UserError, one_line
from afictl.integrations import substitute_interpolator
from afictl.interpolators import Interpolator
from afictl.presets import Preset
from afictl.presets.architecture import Detectron2Config
from afictl.presets.detectron2_configs import read_config
from afictl.presets.detectron2_presets import anchor_lists, anchor_sizes, changeable, model_values

_ALWAYS = {"backbone.name", "backbone.pretrained", "detector.source", "detector.anchor_sizes"}


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
    _require_possible(preset, config.source, cfg)
    _apply(preset, config.anchor_sizes, cfg, num_classes)
    model = _build(cfg, preset.name)
    num_upsamplers = substitute_interpolator(model, interpolator)
    bottom_up, levels = model.backbone.bottom_up, cfg.MODEL.FPN.IN_FEATURES
    backbone = BottomUpView(preset.backbone.name, bottom_up, levels, preset.input, bgr=cfg.INPUT.FORMAT != "RGB")
    neck = PyramidView(model.backbone, num_upsamplers)
    head_type = Detectron2DenseHead if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else Detectron2RegionHead
    head = head_type(model, num_classes, config.segments)
    unsaved = tuple(f"model.{name}" for name in head.unsaved)
    return AdaptedDetector(preset, model, backbone, neck, head, num_classes, unsaved)


def _build(cfg: CfgNode, name: str) -> Any:
    try:
        return build_model(cfg)
    except UserError:
        raise
    except Exception as error:  # a wrong value can fail anywhere in detectron2's constructors
        reason = one_line(error)
        raise UserError(f"{name}: detectron2 cannot build it: {type(error).__name__}: {reason:.200}") from error


def _require_possible(preset: Preset, source: str, cfg: CfgNode) -> None:
    """Refuse what would silently be ignored: a setting that differs from the configuration's and does not reach it."""
    fixed = Preset.model_validate({"name": "", **model_values(source)}).model_dump()
    for section in ("backbone", "neck", "detector"):
        for key, value in getattr(preset, section).model_dump().items():
            name = f"{section}.{key}"
            expected = fixed[section].get(key)
            if value != expected and name not in _ALWAYS and name not in changeable(cfg):
                raise UserError(
                    f"{preset.name}: {name} is {expected!r} in the configuration and cannot be {value!r} "
                    "here; change it in a YAML file of your own"
                )


def _apply(preset: Preset, sizes: Sequence[float], cfg: CfgNode, num_classes: int) -> None:
    """Put what the preset may change into ``cfg``, and what afictl does its own way."""
    values = preset.model_dump()
    changes: dict[str, Any] = {}
    for ours, theirs in changeable(cfg).items():
        section, key = ours.split(".")
        changes[theirs] = values[section][key]
    before = anchor_sizes(cfg)
    factors = [ours / theirs for ours, theirs in zip(sizes, before, strict=True)]
    scaled = [[size * factor for size in level] for level, factor in zip(anchor_lists(cfg), factors, strict=False)]
    changes |= {
        "MODEL.ANCHOR_GENERATOR.SIZES": scaled,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.RETINANET.NUM_CLASSES": num_classes,
        "MODEL.AFICTL.INTERPOLATOR": "nearest",  # the preset's takes its place
        "MODEL.DEVICE": str(torch.get_default_device()),
        "VIS_PERIOD": 0,
    }
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
