"""Settings that change what weights compute but not their shapes, so that loading alone cannot detect a difference."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from afictl.errors import UserError
from afictl.presets import Preset, parse_preset
from afictl.weights.checkpoint import Checkpoint

_COMMON_KEYS = ("backbone.stride_in_1x1", "input.mean", "input.std")
_ANCHOR_KEYS = ("detector.anchor_sizes", "detector.anchor_ratios", "detector.size_ranges")
_NECK_KEYS = {"fpn": ("neck.fuse",), "pafpn": ("neck.fuse",), "bifpn": ("neck.fusion", "neck.skips", "neck.blocks")}


def require_same_arithmetic(preset: Preset, checkpoint: Checkpoint) -> None:
    """Check that a detector of ``preset`` computes the same with the weights of ``checkpoint`` as their own detector.

    Raises:
        UserError: the preset stored in the checkpoint differs; the message names the keys to set.
    """
    differences = _differing_settings(preset, checkpoint, (*_COMMON_KEYS, *_NECK_KEYS[preset.neck.kind]))
    if differences:
        raise UserError(
            f"{checkpoint.path}: its weights were trained with another {' and '.join(differences)} than {preset.name};"
            f" add {_flags(differences)}"
        )


def anchor_note(preset: Preset, checkpoint: Checkpoint) -> str:
    """A note that the weights were trained with other anchors or size ranges than ``preset`` has; empty if equal.

    Other anchors can be intended, for objects of another size; the box regression then has to be trained again.
    """
    differences = _differing_settings(preset, checkpoint, _ANCHOR_KEYS)
    if not differences:
        return ""
    keys = " and ".join(differences)
    return f"note: {checkpoint.path} was trained with another {keys}; {_flags(differences)} keeps its values"


def _differing_settings(preset: Preset, checkpoint: Checkpoint, keys: Iterable[str]) -> dict[str, object]:
    """The values stored in the checkpoint of those ``keys`` that have another value in ``preset``."""
    values = checkpoint.metadata.get("preset")
    if not isinstance(values, Mapping):
        return {}
    stored_preset = parse_preset(values, source=str(checkpoint.path))
    if stored_preset.neck.kind != preset.neck.kind:
        return {}  # another model, which the tensor names show
    pairs = {key: (_value(stored_preset, key), _value(preset, key)) for key in keys}
    return {key: stored for key, (stored, new) in pairs.items() if None not in (stored, new) and not _same(stored, new)}


def _flags(values: Mapping[str, object]) -> str:
    """``--set`` flags for ``values``, as the shell takes them."""
    return " ".join(f"--set {key}={_flag_value(value)}" for key, value in values.items())


def _value(preset: Preset, key: str) -> object:
    """The value of a dotted key; None where the kind of the section has no such key."""
    section, name = key.split(".")
    return getattr(getattr(preset, section), name, None)


def _flag_value(value: object) -> str:
    """A value as ``--set`` reads it, without spaces."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _same(one: object, other: object) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return bool(one == other)
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))
