"""ImageNet backbones as afictl files: timm's tensor names, and the position of the stride."""

from __future__ import annotations

from dataclasses import replace

import torch

from afictl.backbones import build_backbone
from afictl.presets import BackboneConfig, InputConfig
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import BACKBONE, VERSION
from afictl.weights.layouts.efficientnet import efficientnet_to_timm
from afictl.weights.layouts.msra import find_plain_resnet, to_timm
from afictl.weights.layouts.pixels import fold_pixels
from afictl.weights.loading import LoadReport, compare_tensors
from afictl.weights.wrappers import unwrapped_variants

# The backbones of the shipped presets, and their nearest relatives.
_NETWORKS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnest101e", "swin_tiny_patch4_window7_224"),
    *("swin_large_patch4_window7_224", "swin_large_patch4_window12_384", "tf_efficientnet_lite0"),
)


def as_backbone(checkpoint: Checkpoint) -> tuple[Checkpoint, LoadReport] | None:
    """Convert a checkpoint to a file for ``load_backbone_weights``, for images normalised with the default of presets.

    Returns:
        The converted checkpoint and the report of its tensors against the network that it names; None if no supported
        network matches.
    """
    for tensors in unwrapped_variants(checkpoint.tensors, backbone=True):
        if converted := _as_network(replace(checkpoint, tensors=tensors)):
            return converted
    return None


def _as_network(checkpoint: Checkpoint) -> tuple[Checkpoint, LoadReport] | None:
    plain = find_plain_resnet(checkpoint.tensors)
    for network in _NETWORKS:
        with torch.device("meta"):
            backbone = build_backbone(BackboneConfig(name=network))
        tensors = checkpoint.tensors
        if plain:
            tensors = to_timm(plain.tensors, network)
        elif renamed := efficientnet_to_timm(tensors, backbone.net.state_dict().keys()):
            tensors = renamed
        report = compare_tensors(backbone.net, backbone.convert_classifier(tensors))
        if not report.complete:
            continue
        if plain:
            stem = fold_pixels(tensors["conv1.weight"], plain.pixels, InputConfig())
            tensors = {**tensors, "conv1.weight": stem}
        strides = bool(plain and plain.stride_in_1x1)
        metadata = {"format": BACKBONE, "version": VERSION, "network": network, "stride_in_1x1": strides}
        return replace(checkpoint, tensors=tensors, metadata=metadata), report
    return None
