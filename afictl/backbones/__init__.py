"""Backbones: normalised images in, ``res2..res5`` out."""

from afictl.backbones.pretrained import load_pretrained
from afictl.backbones.resnet import Backbone
from afictl.presets import BackboneConfig

__all__ = ["Backbone", "build_backbone", "load_pretrained"]


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the backbone that ``config`` describes, with random weights whatever ``config.pretrained`` says.

    Training that starts from ImageNet calls ``load_pretrained`` on it. A detector read from a checkpoint has its
    weights already and must not need a network.
    """
    return Backbone(config)
