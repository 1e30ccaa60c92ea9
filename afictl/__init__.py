"""Learned feature upsampling for object detectors.

All names in ``__all__`` are imported on first use, so that ``import afictl`` is fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

_MODULES = {
    "AFInterpolator": "afictl.interpolators",
    "LoadReport": "afictl.weights",
    "PatchDiscriminator": "afictl.discriminator",
    "Preset": "afictl.presets",
    "UserError": "afictl.errors",
    "build_detector": "afictl.detectors",
    "build_interpolator": "afictl.interpolators",
    "interpolator_kinds": "afictl.interpolators",
    "list_presets": "afictl.presets",
    "load_preset": "afictl.presets",
    "load_weights": "afictl.weights",
    "predict": "afictl.detectors",
    "substitute_interpolator": "afictl.integrations",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'afictl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
