"""What the description inside our detector files holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afictl.interpolators.base import AFI_FORMAT, FORMAT
from afictl.presets import Preset
from afictl.weights.classes import usual_classes

DETECTOR = "detector"
"""The ``format`` of a detector's file."""
INTERPOLATORS = (AFI_FORMAT, FORMAT)
"""Those of ``Interpolator.save``."""
DISCRIMINATOR = "discriminator"
BACKBONE = "backbone"
VERSION = 1


def describe_detector(preset: Preset, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON-ready description of a detector built from ``preset``, with ``metadata`` beside it."""
    return {**metadata, "format": DETECTOR, "version": VERSION, "preset": preset.model_dump(mode="json")}


def describe_foreign(preset: Preset, num_classes: int, layout: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The description of a detector that came from elsewhere.

    Args:
        preset: derived from its tensors.
        num_classes: without background; 80 are taken for COCO's.
        layout: what it was recognised as, for people.
        notes: what its tensors could not tell and how the user can say it.
    """
    classes, ids = usual_classes(num_classes)
    origin = {"layout": layout, "notes": list(notes)}
    return describe_detector(preset, {"classes": classes, "category_ids": ids, "metrics": {}, "origin": origin})
