"""Detectors of detectron2 (its model zoo among them) and of the public AFI-GAN, which is built on it.

detectron2: https://github.com/facebookresearch/detectron2; old and new versions, with FPN. Beside the tensor
names, the pixels differ (see ``pixels``), and the position of the background: the last class there, the first here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.presets import Preset
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import describe_foreign
from afictl.weights.layouts.detectron2_backbone import BackboneDescription, describe_backbone
from afictl.weights.layouts.detectron2_names import BOTTOM_UP, detector_key
from afictl.weights.layouts.detectron2_preset import derive_preset, has_anchors
from afictl.weights.layouts.pixels import TORCHVISION, Pixels, fold_pixels, recorded_pixels

_PARTS = ("proposal_generator.", "roi_heads.", "head.", "backbone.fpn_", "backbone.pafpn_", "backbone.before_bifpn.")
# Computed at construction: anchors, pixel statistics, tables that follow from the window of a Swin Transformer.
_DERIVED = re.compile(
    r"(.*\.)?anchor_generator\.cell_anchors\.\d+$|pixel_(mean|std)$|.*\.(relative_position_index|attn_mask)$"
)
_STEMS = ("backbone.net.conv1.weight", "backbone.net.conv1.0.weight", "backbone.net.patch_embed.proj.weight")
_STATISTICS = ("running_mean", "running_var")
_NORMALIZER = "head.normalizer"
_INITIAL_NORMALIZER = 100.0


def translate_detectron2(checkpoint: Checkpoint) -> Checkpoint | None:
    """A detector of this layout under afictl's tensor names, with a preset derived from its tensors.

    Raises:
        UserError: a detector of this layout with an unsupported backbone.
    """
    tensors = checkpoint.tensors
    if not _matches(tensors):
        return None
    try:
        backbone = describe_backbone(tensors)
        recorded = recorded_pixels(tensors)
        preset, num_classes, renamed = derive_detector(tensors, backbone, recorded or backbone.pixels)
        metadata = describe_foreign(preset, num_classes, _title(tensors), _notes(tensors, backbone, preset, recorded))
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    return replace(checkpoint, tensors=renamed, metadata=metadata)


def derive_detector(
    tensors: Mapping[str, Tensor], backbone: BackboneDescription, pixels: Pixels
) -> tuple[Preset, int, dict[str, Tensor]]:
    """Preset, number of classes, and afictl's names of ``tensors`` that have detectron2's names."""
    preset, num_classes = derive_preset(tensors, backbone, pixels)
    return preset, num_classes, to_afictl_names(tensors, preset, num_classes, pixels)


def in_rgb(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with recorded pixel statistics of RGB images with ImageNet's mean and standard deviation.

    Raises:
        UserError: another layout, or the file records pixel statistics itself.
    """
    if not _matches(checkpoint.tensors):
        raise UserError(f"{checkpoint.path}: --rgb: not a detector of detectron2")
    if recorded_pixels(checkpoint.tensors):
        raise UserError(f"{checkpoint.path}: --rgb: the file contains pixel_mean and pixel_std; leave --rgb out")
    statistics = {"pixel_mean": torch.tensor(TORCHVISION.mean), "pixel_std": torch.tensor(TORCHVISION.std)}
    return replace(checkpoint, tensors=checkpoint.tensors | statistics)


def to_afictl_names(
    tensors: Mapping[str, Tensor], preset: Preset, num_classes: int, pixels: Pixels
) -> dict[str, Tensor]:
    """detectron2's ``tensors`` under the names of the detector of ``preset``; names of others are unchanged."""
    with torch.device("meta"):
        expected = build_detector(preset, num_classes).state_dict()
    remaining = without_derived(tensors)
    statistics = has_statistics(tensors)
    renamed: dict[str, Tensor] = {}
    for name, like in expected.items():
        key = detector_key(name, preset)
        value = remaining.pop(key, None) if key else None
        if value is None:
            value = _implied(name, like, statistics)
        if value is not None:
            renamed[name] = _adapt(name, value, preset, pixels)
    return renamed | remaining


def without_derived(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without buffers that a model computes at construction, which some versions saved."""
    return {name: value for name, value in tensors.items() if not _DERIVED.match(name)}


def _adapt(name: str, value: Tensor, preset: Preset, pixels: Pixels) -> Tensor:
    if name in _STEMS:
        return fold_pixels(value, pixels, preset.input)
    if ".cls_score." in name and value.ndim:
        return value.roll(1, 0)  # background first
    return value


def has_statistics(tensors: Mapping[str, Tensor]) -> bool:
    """Whether norms of the backbone have running statistics; in old files without them they are 0 and 1."""
    return any(name.startswith(BOTTOM_UP) and name.endswith(_STATISTICS) for name in tensors)


def _implied(name: str, like: Tensor, statistics: bool) -> Tensor | None:
    """The value of a tensor that the layout does not store but implies."""
    if name == _NORMALIZER:
        return torch.tensor(_INITIAL_NORMALIZER)
    if statistics or not (name.startswith("backbone.net.") and name.endswith(_STATISTICS)):
        return None
    return torch.zeros(like.shape) if name.endswith("mean") else torch.ones(like.shape)


def _matches(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(BOTTOM_UP) for name in tensors) and any(name.startswith(_PARTS) for name in tensors)


def _title(tensors: Mapping[str, Tensor]) -> str:
    prefixes = ("backbone.srf_module.", "backbone.pafpn_", "backbone.before_bifpn.")
    return "a detector of AFI-GAN" if any(name.startswith(prefixes) for name in tensors) else "a detector of detectron2"


def _notes(
    tensors: Mapping[str, Tensor], backbone: BackboneDescription, preset: Preset, recorded: Pixels | None
) -> list[str]:
    notes = []
    if backbone.stride_in_1x1:
        assumed = "strides in the 1x1 convolutions" + ("" if recorded else " and BGR pixels")
        setting = "--set backbone.stride_in_1x1=false" + ("" if recorded else " --rgb")
        notes.append(
            f"assumed: {assumed}, as in detectron2's model zoo; trained from torchvision's backbone: {setting}"
        )
    extractor = preset.detector.kind == "mask-rcnn" and preset.neck.kind == "fpn" and preset.interpolator.kind == "afi"
    if extractor and not has_anchors(tensors):
        halved = "--set detector.anchor_sizes=[16,32,64,128,256]"
        notes.append(
            f"the file does not contain its anchors; an extractor of stage 2 has anchors of half the size: {halved}"
        )
    return notes
