"""Presets: one detector, backbone and neck pairing with its recipe, by name or from a YAML file."""

from afictl.presets.loading import list_presets, list_torchvision_presets, load_preset, parse_preset
from afictl.presets.schema import (
    AdversarialRecipe,
    BackboneConfig,
    DetectorConfig,
    InputConfig,
    InterpolatorConfig,
    LoaderConfig,
    NeckConfig,
    Preset,
    Published,
    Recipe,
    Scores,
)

__all__ = [
    "AdversarialRecipe",
    "BackboneConfig",
    "DetectorConfig",
    "InputConfig",
    "InterpolatorConfig",
    "LoaderConfig",
    "NeckConfig",
    "Preset",
    "Published",
    "Recipe",
    "Scores",
    "list_presets",
    "list_torchvision_presets",
    "load_preset",
    "parse_preset",
]
