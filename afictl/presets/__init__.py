"""Presets: one detector, backbone and neck pairing with its recipe, by name or from a YAML file."""

from afictl.presets.architecture import (
    BackboneConfig,
    BiFPNConfig,
    DetectorConfig,
    FPNConfig,
    InterpolatorConfig,
    NeckConfig,
    PAFPNConfig,
)
from afictl.presets.former_values import with_former_values
from afictl.presets.preset_files import (
    list_presets,
    list_torchvision_presets,
    load_preset,
    overridden_values,
    parse_neck,
    parse_preset,
    upgrade_settings,
)
from afictl.presets.schema import (
    AdversarialRecipe,
    DetectorRecipe,
    GuideFeatures,
    InputConfig,
    InterpolatorRecipe,
    LoaderConfig,
    Preset,
    Published,
    Recipe,
    Scores,
)

__all__ = [
    "AdversarialRecipe",
    "BackboneConfig",
    "BiFPNConfig",
    "DetectorConfig",
    "DetectorRecipe",
    "FPNConfig",
    "GuideFeatures",
    "InputConfig",
    "InterpolatorConfig",
    "InterpolatorRecipe",
    "LoaderConfig",
    "NeckConfig",
    "PAFPNConfig",
    "Preset",
    "Published",
    "Recipe",
    "Scores",
    "list_presets",
    "list_torchvision_presets",
    "load_preset",
    "overridden_values",
    "parse_neck",
    "parse_preset",
    "upgrade_settings",
    "with_former_values",
]
