"""Build a detector from a preset."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import nn

from afictl.backbones import build_backbone
from afictl.backbones.checkpointing import checkpoint_module
from afictl.detectors.adapter import AdaptedDetector
from afictl.detectors.cascade_rcnn import build_cascade_mask_rcnn_head, build_cascade_rcnn_head
from afictl.detectors.centermask import build_centermask_head
from afictl.detectors.detector import Detector
from afictl.detectors.faster_rcnn import build_faster_rcnn_head
from afictl.detectors.fcos import build_fcos_head
from afictl.detectors.head import Head
from afictl.detectors.mask_rcnn import build_mask_rcnn_head
from afictl.detectors.retinanet import build_retinanet_head
from afictl.detectors.torchvision_models import torchvision_detector
from afictl.errors import UserError
from afictl.interpolators import Interpolator, build_configured
from afictl.memory import build_within_memory
from afictl.necks import build_neck, input_levels
from afictl.presets import Preset, load_preset

_HEADS: dict[str, Callable[..., Head]] = {
    "faster-rcnn": build_faster_rcnn_head,
    "mask-rcnn": build_mask_rcnn_head,
    "cascade-rcnn": build_cascade_rcnn_head,
    "cascade-mask-rcnn": build_cascade_mask_rcnn_head,
    "retinanet": build_retinanet_head,
    "fcos": build_fcos_head,
    "centermask": build_centermask_head,
}


def _detectron2_detector(preset: Preset, num_classes: int, interpolator: Interpolator) -> AdaptedDetector:
    """A model of detectron2, which is optional and imported for its presets only."""
    importlib.import_module("afictl.presets.detectron2_configs")  # its error names the way to install detectron2
    from afictl.detectors.detectron2_models import detectron2_detector

    return detectron2_detector(preset, num_classes, interpolator)


def _transformers_detector(preset: Preset, num_classes: int, interpolator: Interpolator) -> AdaptedDetector:
    """A model of transformers, which is optional and imported for its presets only."""
    importlib.import_module("afictl.presets.transformers_presets")  # its error names the way to install transformers
    from afictl.detectors.transformers_models import transformers_detector

    return transformers_detector(preset, num_classes, interpolator)


_LIBRARY_DETECTORS: dict[str, Callable[[Preset, int, Interpolator], AdaptedDetector]] = {
    "torchvision": torchvision_detector,
    "detectron2": _detectron2_detector,
    "transformers": _transformers_detector,
}


def build_detector(
    preset: str | Path | Preset, num_classes: int | None = None, interpolator: str | Interpolator | None = None
) -> Detector:
    """Build a detector with random weights; nothing is downloaded.

    Args:
        preset: name, path of a YAML file, or a loaded preset.
        num_classes: classes without background; None is COCO's 80.
        interpolator: kind, or a module, which is not copied unless ``neck.interpolators`` is ``per-step``; None for the
            preset's. ``detector.preset`` has its kind. The preset's ``interpolator.options`` apply to the preset's own
            kind only, with a warning where another kind leaves some out.

    Raises:
        UserError: unknown preset or interpolator, an interpolator of another width, no class, or for a model of
            another library a setting that the model cannot have, or weights too large for this machine's memory.
    """
    loaded = preset if isinstance(preset, Preset) else load_preset(preset)
    _warn_of_options(loaded, interpolator)
    classes = 80 if num_classes is None else num_classes
    if classes < 1:
        raise UserError(f"a detector needs at least one class, got num_classes={classes}")
    try:
        detector = build_within_memory(
            loaded.name, lambda: _build(*_resolve_interpolator(loaded, interpolator), classes)
        )
    except UserError as error:
        if isinstance(preset, Preset):
            raise
        raise UserError(f"{preset}: {error}") from None
    if loaded.interpolator.checkpointing:
        checkpoint_module(detector.neck.interpolator)
    return detector


def _warn_of_options(preset: Preset, interpolator: str | Interpolator | None) -> None:
    config = preset.interpolator
    if isinstance(interpolator, str) and interpolator != config.kind and config.options:
        message = f"interpolator.options of {preset.name} are those of {config.kind}; {interpolator} has its defaults"
        warnings.warn(message, stacklevel=3)


def _build(preset: Preset, module: Interpolator, num_classes: int) -> Detector:
    if preset.detector.kind in _LIBRARY_DETECTORS:
        return _LIBRARY_DETECTORS[preset.detector.kind](preset, num_classes, module)
    backbone = build_backbone(preset.backbone, input_levels(preset.neck))
    neck = build_neck(preset.neck, backbone.channels, module)
    head = _HEADS[preset.detector.kind](preset.detector, neck.channels, neck.strides, num_classes)
    return Detector(preset, backbone, neck, head, num_classes)


def _resolve_interpolator(preset: Preset, interpolator: str | Interpolator | None) -> tuple[Preset, Interpolator]:
    """The interpolator before it is put into a neck, and the preset with its kind and options."""
    if isinstance(interpolator, nn.Module):
        return preset.with_interpolator(str(interpolator.kind), getattr(interpolator, "options", {})), interpolator
    if interpolator is not None:
        preset = preset.with_kind(interpolator)
    return preset, build_configured(preset.interpolator, preset.neck.channels)
