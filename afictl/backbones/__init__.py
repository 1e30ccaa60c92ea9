"""Backbones: normalised images in, ``res2..res5`` out."""

from collections.abc import Sequence

from afictl.backbones.pretrained import load_pretrained
from afictl.backbones.resnet import LEVELS, Backbone
from afictl.presets import BackboneConfig

__all__ = ["Backbone", "build_backbone", "load_pretrained"]


def build_backbone(config: BackboneConfig, levels: Sequence[str] = LEVELS) -> Backbone:
    """Build the backbone that ``config`` describes, with random weights even when it says ``pretrained``.

    ``levels`` are the maps that it gives, from fine to coarse.

    Training that starts from ImageNet calls ``load_pretrained`` on it; a detector read from a checkpoint must
    not need a network.
    """
    return Backbone(config, levels)
