"""Backbones: normalised images in, ``res2..res5`` out."""

from __future__ import annotations

from collections.abc import Sequence

import timm
from timm.models import is_model_in_modules

from afictl.backbones.backbone import LEVELS, Backbone, FeatureExtractor
from afictl.backbones.pretrained import load_pretrained
from afictl.backbones.resnet import ResNet
from afictl.backbones.swin import Swin
from afictl.backbones.timm_network import TimmNetwork
from afictl.errors import UserError, did_you_mean
from afictl.presets import BackboneConfig

__all__ = ["Backbone", "FeatureExtractor", "build_backbone", "load_pretrained"]

_FAMILIES: dict[str, type[ResNet] | type[Swin]] = {"resnet": ResNet, "resnest": ResNet, "swin_transformer": Swin}
"""timm's module of a network -> the class of its backbones; those of all other modules are ``TimmNetwork``."""


def build_backbone(config: BackboneConfig, levels: Sequence[str] = LEVELS) -> ResNet | Swin | TimmNetwork:
    """Build the backbone that ``config`` describes with random weights, whatever ``config.pretrained`` is.

    Training from ImageNet weights calls ``load_pretrained`` on it; a detector from a checkpoint downloads nothing.

    Args:
        config: of the preset.
        levels: maps that it returns, finest first.

    Raises:
        UserError: no network of that name, one that cannot be a backbone, an invalid option, or a setting that the
            network cannot have.
    """
    architecture = config.name.split(".")[0]
    if not timm.is_model(architecture):
        near = did_you_mean(architecture.lower(), timm.list_models())
        raise UserError(f"backbone.name: timm has no network '{config.name:.80}'{near}")
    families = (family for module, family in _FAMILIES.items() if is_model_in_modules(architecture, {module}))
    family = next(families, TimmNetwork)
    return family(config.name, levels, **config.model_dump(exclude={"name", "pretrained"}))
