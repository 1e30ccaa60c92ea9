"""Presets whose heads have few channels, whatever keys their kind has."""

from afictl import load_preset
from afictl.presets import Preset

_SMALL = ("neck.channels=16", "interpolator.options={blocks: 1, growth: 8}")
_WIDTHS = {"fc_width": 32, "mask_width": 16}


def narrow_preset(name: str, *overrides: str) -> Preset:
    """The preset with a neck of 16 channels, a small AF interpolator and narrow heads; ``overrides`` come on top."""
    kind = load_preset(name, [setting for setting in overrides if setting.startswith("detector.kind=")]).detector
    widths = [f"detector.{key}={width}" for key, width in _WIDTHS.items() if key in type(kind).model_fields]
    return load_preset(name, [*_SMALL, *widths, *overrides])
