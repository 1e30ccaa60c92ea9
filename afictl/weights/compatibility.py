"""Settings that change what weights compute, and not their shapes: a wrong one would go unnoticed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from afictl.errors import UserError
from afictl.presets import Preset, parse_preset
from afictl.weights.checkpoint import Checkpoint

_ALWAYS = ("backbone.stride_in_1x1", "input.mean", "input.std")
_WHERE_BOXES_START = ("detector.anchor_sizes", "detector.anchor_ratios", "detector.size_ranges")
_OF_NECK = {"fpn": ("neck.fuse",), "pafpn": ("neck.fuse",), "bifpn": ("neck.fusion", "neck.skips", "neck.blocks")}


def require_same_arithmetic(preset: Preset, checkpoint: Checkpoint) -> None:
    """Check that a detector of ``preset`` computes with the weights of ``checkpoint`` what they were trained for.

    Raises:
        UserError: the preset that the checkpoint brings says otherwise; the keys to set are named.
    """
    changed = _changed(preset, checkpoint, (*_ALWAYS, *_OF_NECK[preset.neck.kind]))
    if changed:
        settings = _settings(changed)
        raise UserError(
            f"{checkpoint.path}: its weights were trained with another {' and '.join(changed)} than {preset.name} has;"
            f" add {settings}"
        )


def other_anchors(preset: Preset, checkpoint: Checkpoint) -> str:
    """A note where boxes start from other places and sizes than those that the weights learned; empty where not.

    That may be meant, for objects of other sizes; weights have to learn it anew.
    """
    changed = _changed(preset, checkpoint, _WHERE_BOXES_START)
    if not changed:
        return ""
    return (
        f"note: {checkpoint.path} was trained with another {' and '.join(changed)}, to which its boxes fit;"
        f" {_settings(changed)} keeps that"
    )


def _changed(preset: Preset, checkpoint: Checkpoint, keys: Iterable[str]) -> dict[str, Any]:
    """What the preset that the checkpoint brings says of those keys of which ``preset`` says something else."""
    stored = checkpoint.metadata.get("preset")
    if not isinstance(stored, Mapping):
        return {}
    theirs = parse_preset(stored, source=str(checkpoint.path))
    if theirs.neck.kind != preset.neck.kind:
        return {}  # another model, which the names of its tensors will tell
    wanted = {key: _value(theirs, key) for key in keys}
    return {key: value for key, value in wanted.items() if not _same(value, _value(preset, key))}


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"--set {key}={_shown(value)}" for key, value in values.items())


def _value(preset: Preset, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(preset, section), name)


def _shown(value: Any) -> str:
    """As ``--set`` reads it, without a blank."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, tuple):
        return bool(one == other)
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))
