"""Detectors of detectron2 (its model zoo among them) and of the public AFI-GAN, which is built on it.

detectron2: https://github.com/facebookresearch/detectron2; old and new versions, with FPN. What differs from ours
beside the names: pixels (see ``pixels``), and the background, which is the last class there and the first here.
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
from afictl.weights.layouts.detectron2_backbone import FoundBackbone, find_backbone
from afictl.weights.layouts.detectron2_names import BOTTOM_UP, detector_key
from afictl.weights.layouts.detectron2_preset import derive_preset, has_anchors
from afictl.weights.layouts.pixels import TORCHVISION, Pixels, fold_pixels, recorded_pixels

_PARTS = ("proposal_generator.", "roi_heads.", "head.", "backbone.fpn_", "backbone.pafpn_", "backbone.before_bifpn.")
# Recomputed there and here: anchors, pixel statistics, tables that follow from Swin's window.
_DERIVED = re.compile(
    r"(.*\.)?anchor_generator\.cell_anchors\.\d+$|pixel_(mean|std)$|.*\.(relative_position_index|attn_mask)$"
)
_STEMS = ("backbone.net.conv1.weight", "backbone.net.conv1.0.weight", "backbone.net.patch_embed.proj.weight")
_STATISTICS = ("running_mean", "running_var")
_NORMALIZER = "head.normalizer"
_INITIAL_NORMALIZER = 100.0


def translate(checkpoint: Checkpoint) -> Checkpoint | None:
    """A detector of this layout in our names, its preset derived from its tensors.

    Raises:
        UserError: a detector of this layout with a backbone that is not known here.
    """
    tensors = checkpoint.tensors
    if not _is_mine(tensors):
        return None
    try:
        backbone = find_backbone(tensors)
        recorded = recorded_pixels(tensors)
        preset, classes, ours = assemble(tensors, backbone, recorded or backbone.pixels)
        metadata = describe_foreign(preset, classes, _title(tensors), _notes(tensors, backbone, preset, recorded))
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    return Checkpoint(checkpoint.path, ours, metadata)


def assemble(
    tensors: Mapping[str, Tensor], backbone: FoundBackbone, pixels: Pixels
) -> tuple[Preset, int, dict[str, Tensor]]:
    """Preset, number of classes, and tensors in our names, of ``tensors`` in detectron2's names."""
    preset, classes = derive_preset(tensors, backbone, pixels)
    return preset, classes, to_our_names(tensors, preset, classes, pixels)


def in_rgb(checkpoint: Checkpoint) -> Checkpoint:
    """The same file as if it said itself that its images are RGB with ImageNet's mean and deviation.

    Raises:
        UserError: it is not of this layout, or says something itself.
    """
    if not _is_mine(checkpoint.tensors):
        raise UserError(f"{checkpoint.path}: --rgb: not a detector of detectron2")
    if recorded_pixels(checkpoint.tensors):
        raise UserError(f"{checkpoint.path}: --rgb: the file holds its pixel_mean and pixel_std; leave --rgb out")
    said = {"pixel_mean": torch.tensor(TORCHVISION.mean), "pixel_std": torch.tensor(TORCHVISION.std)}
    return replace(checkpoint, tensors=checkpoint.tensors | said)


def to_our_names(tensors: Mapping[str, Tensor], preset: Preset, num_classes: int, pixels: Pixels) -> dict[str, Tensor]:
    """detectron2's ``tensors`` under the names of the detector of ``preset``; what has no place keeps its name."""
    with torch.device("meta"):
        wanted = build_detector(preset, num_classes).state_dict()
    left = without_derived(tensors)
    statistics = has_statistics(tensors)
    ours: dict[str, Tensor] = {}
    for name, own in wanted.items():
        key = detector_key(name, preset)
        value = left.pop(key, None) if key else None
        if value is None:
            value = _unsaved(name, own, statistics)
        if value is not None:
            ours[name] = _adapt(name, value, preset, pixels)
    return ours | left


def without_derived(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without those that a model computes when it is built, which some versions saved."""
    return {name: value for name, value in tensors.items() if not _DERIVED.match(name)}


def _adapt(name: str, value: Tensor, preset: Preset, pixels: Pixels) -> Tensor:
    if name in _STEMS:
        return fold_pixels(value, pixels, preset.input)
    if ".cls_score." in name and value.ndim:
        return value.roll(1, 0)  # background first
    return value


def has_statistics(tensors: Mapping[str, Tensor]) -> bool:
    """Whether norms of the backbone have a mean and a variance; the frozen ones of old files mean 0 and 1."""
    return any(name.startswith(BOTTOM_UP) and name.endswith(_STATISTICS) for name in tensors)


def _unsaved(name: str, own: Tensor, statistics: bool) -> Tensor | None:
    """What the layout does not store and means nevertheless."""
    if name == _NORMALIZER:
        return torch.tensor(_INITIAL_NORMALIZER)
    if statistics or not (name.startswith("backbone.net.") and name.endswith(_STATISTICS)):
        return None
    return torch.zeros(own.shape) if name.endswith("mean") else torch.ones(own.shape)


def _is_mine(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(BOTTOM_UP) for name in tensors) and any(name.startswith(_PARTS) for name in tensors)


def _title(tensors: Mapping[str, Tensor]) -> str:
    marks = ("backbone.srf_module.", "backbone.pafpn_", "backbone.before_bifpn.")
    return "a detector of AFI-GAN" if any(name.startswith(marks) for name in tensors) else "a detector of detectron2"


def _notes(
    tensors: Mapping[str, Tensor], backbone: FoundBackbone, preset: Preset, recorded: Pixels | None
) -> list[str]:
    notes = []
    if backbone.stride_in_1x1:
        usual = "strides in the 1x1 convolutions" + ("" if recorded else " and BGR pixels")
        other = "--set backbone.stride_in_1x1=false" + ("" if recorded else " --rgb")
        notes.append(
            f"taken for granted: {usual}, as in detectron2's zoo; trained from torchvision's backbone: {other}"
        )
    extractor = preset.detector.kind == "mask-rcnn" and preset.neck.kind == "fpn" and preset.interpolator.kind == "afi"
    if extractor and not has_anchors(tensors):
        halved = "--set detector.anchor_sizes=[16,32,64,128,256]"
        notes.append(f"the file does not tell its anchors; an extractor of stage 2 has halved ones: {halved}")
    return notes
