"""Descriptions inside afictl's safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from afictl.interpolators.base import AFI_FORMAT, FORMAT
from afictl.presets import Preset
from afictl.weights.classes import default_classes

DETECTOR = "detector"
"""The ``format`` of a detector file."""
INTERPOLATOR_FORMATS = (AFI_FORMAT, FORMAT)
"""The formats of ``Interpolator.save``."""
DISCRIMINATOR = "discriminator"
BACKBONE = "backbone"
VERSION = 1
AVERAGED = "averaged"
"""Key that is true in a file with a moving average of weights."""


def describe_detector(preset: Preset, metadata: Mapping[str, object]) -> dict[str, object]:
    """The JSON-ready description of a detector built from ``preset``, with ``metadata`` beside it."""
    return {**metadata, "format": DETECTOR, "version": VERSION, "preset": preset.model_dump(mode="json")}


def describe_foreign(preset: Preset, num_classes: int, layout: str, notes: Sequence[str] = ()) -> dict[str, object]:
    """The description of a detector of another project.

    Args:
        preset: derived from its tensors.
        num_classes: without background; 80 classes are assumed to be COCO's.
        layout: the recognised layout, for messages.
        notes: properties that tensors do not show, and the setting for each.
    """
    classes, ids, _ = default_classes(num_classes)
    origin = {"layout": layout, "notes": list(notes)}
    return describe_detector(preset, {"classes": classes, "category_ids": ids, "metrics": {}, "origin": origin})
