"""Settings that change what weights compute but not their shapes, so that loading alone cannot detect a difference."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from afictl.backbones import FeatureExtractor
from afictl.errors import UserError
from afictl.presets import InputConfig, Preset, parse_preset
from afictl.presets.pixel_statistics import Triple, differing_statistics, network_statistics
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.layouts.detectron2_preset import anchor_sides

_ARITHMETIC_KEYS = ("backbone.stride_in_1x1", "input.mean", "input.std")
_NECK_KEYS = {
    **dict.fromkeys(("fpn", "pafpn"), ("neck.fuse",)),
    "bifpn": ("neck.fusion", "neck.skips", "neck.blocks"),
}
_NOTED_KEYS = (
    *("backbone.name", "backbone.options", "backbone.norm", "neck.top"),
    *("detector.anchor_sizes", "detector.anchor_ratios", "detector.anchors_per_octave", "detector.size_ranges"),
)
_TRAINING_OPTIONS = frozenset({"drop_rate", "drop_path_rate", "drop_block_rate", "attn_drop_rate", "proj_drop_rate"})
_DETECTRON2_KEYS = (
    *("INPUT.FORMAT", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.NORM", "MODEL.FPN.FUSE_TYPE", "MODEL.FPN.NORM"),
    *("MODEL.ANCHOR_GENERATOR.OFFSET", "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.RPN.BBOX_REG_WEIGHTS"),
    *(f"MODEL.ROI_BOX_HEAD.{key}" for key in ("POOLER_TYPE", "POOLER_SAMPLING_RATIO", "BBOX_REG_WEIGHTS")),
    *(f"MODEL.ROI_MASK_HEAD.{key}" for key in ("POOLER_TYPE", "POOLER_SAMPLING_RATIO")),
    *("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", "MODEL.RETINANET.BBOX_REG_WEIGHTS"),
)
"""Keys of detectron2's configuration that have the role of the settings above."""


class Difference(NamedTuple):
    """A setting that is not the one that weights were trained with."""

    key: str
    """Dotted key of a preset; for a model of detectron2 perhaps a key of its configuration."""
    trained: object
    """The value that the weights were trained with."""

    def __str__(self) -> str:
        return f"{self.key}={_flag_value(self.trained)}"


def setting_differences(preset: Preset, trained: Preset) -> tuple[Difference, ...]:
    """Settings under which a detector of ``preset`` computes something else with weights of one of ``trained``."""
    noted = (*_differences(preset, trained, _NOTED_KEYS), *_interpolator_differences(preset, trained))
    if (trained.neck.interpolators, preset.neck.interpolators) == ("per-step", "shared"):  # a shared one fits any neck
        noted = (*noted, Difference("neck.interpolators", "per-step"))
    return (*arithmetic_differences(preset, trained), *noted, *_detectron2_differences(preset, trained))


def arithmetic_differences(preset: Preset, trained: Preset) -> tuple[Difference, ...]:
    """``setting_differences`` that are hardly intended; others, such as anchors, adapt a detector to its objects."""
    if trained.neck.kind != preset.neck.kind:
        return ()  # another model, which the tensor names show
    return _differences(preset, trained, (*_ARITHMETIC_KEYS, *_NECK_KEYS[preset.neck.kind]))


def checkpoint_differences(preset: Preset, checkpoint: Checkpoint) -> tuple[Difference, ...]:
    """``setting_differences`` to the preset in a checkpoint; empty for one without a preset."""
    trained = _trained_preset(checkpoint)
    return setting_differences(preset, trained) if trained else ()


def pixel_differences(
    backbone: FeatureExtractor, config: InputConfig, trained: Mapping[str, Triple] | None = None
) -> tuple[Difference, ...]:
    """Pixel statistics that backbone weights were trained with, where images normalised as ``config`` have others.

    Args:
        backbone: to which the weights were converted.
        config: normalisation of the detector's images.
        trained: ``mean`` and ``std`` of the weights (default: those that timm states for the network).
    """
    trained = network_statistics(backbone.name) if trained is None else trained
    differing = differing_statistics(trained, {"mean": config.mean, "std": config.std})
    return tuple(
        Difference(f"input.{key}", trained[key])
        for key in differing
        if not (key == "std" and backbone.converts_deviation)
    )


def anchor_differences(trained: Sequence[Tensor], present: Sequence[Tensor]) -> tuple[Difference, ...]:
    """Anchors that a model of detectron2 does not share with the model of its weights.

    Args:
        trained: anchors of cell (0, 0) of each level, (A, 4) xyxy in pixels.
        present: those of the model.
    """
    if _same_anchors(trained, present):
        return ()
    if len(trained) == 5 and _same_anchors(*map(_unit_anchors, (trained, present))):
        return (Difference("detector.anchor_sizes", tuple(min(anchor_sides(cell)[0]) for cell in trained)),)
    before, now = ([anchor_sides(cell) for cell in cells] for cells in (trained, present))
    values = {
        "ASPECT_RATIOS": ([before[0][1]], [now[0][1]]),
        "SIZES": ([sizes for sizes, _ in before], [sizes for sizes, _ in now]),
    }
    differing = [key for key, pair in values.items() if pair[0] != pair[1]] or list(values)
    return tuple(Difference(f"MODEL.ANCHOR_GENERATOR.{key}", values[key][0]) for key in differing)


def _unit_anchors(cells: Iterable[Tensor]) -> list[Tensor]:
    """The anchors of each level divided by the smallest size of the level."""
    return [cell / min(anchor_sides(cell)[0]) for cell in cells]


def _same_anchors(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    shapes = [[cell.shape for cell in cells] for cells in (one, other)]
    return shapes[0] == shapes[1] and all(
        torch.allclose(a.double().cpu(), b.double().cpu(), rtol=1e-3, atol=1e-3)
        for a, b in zip(one, other, strict=True)
    )


def require_same_arithmetic(preset: Preset, checkpoint: Checkpoint) -> None:
    """Check that a detector of ``preset`` has the arithmetic of the preset in ``checkpoint``.

    Raises:
        UserError: it differs; the message names the keys to set.
    """
    trained = _trained_preset(checkpoint)
    differences = arithmetic_differences(preset, trained) if trained else ()
    if differences:
        raise other_arithmetic(preset, checkpoint, differences)


def other_arithmetic(preset: Preset, checkpoint: Checkpoint, differences: Sequence[Difference]) -> UserError:
    """The error about weights with ``differences`` to ``preset``, which names the keys to set."""
    keys = " and ".join(difference.key for difference in differences)
    return UserError(
        f"{checkpoint.path}: its weights were trained with another {keys} than {preset.name}; add {_flags(differences)}"
    )


_DETECTRON2_NODES = ("MODEL.", "INPUT.")
"""Prefixes of keys of detectron2's configuration, which ``--set`` does not take."""


def difference_note(differences: Iterable[Difference], source: object) -> str:
    """A line on differences to the weights of ``source``; empty if there are none."""
    differences = tuple(differences)
    if not differences:
        return ""
    keys = " and ".join(difference.key for difference in differences)
    values = "its values" if len(differences) > 1 else "its value"
    settable = tuple(difference for difference in differences if not difference.key.startswith(_DETECTRON2_NODES))
    advice = f"; {_flags(settable)} keeps {values}" if len(settable) == len(differences) else ""
    return f"note: {source} was trained with another {keys}{advice}"


def _trained_preset(checkpoint: Checkpoint) -> Preset | None:
    values = checkpoint.metadata.get("preset")
    return parse_preset(values, source=str(checkpoint.path)) if isinstance(values, Mapping) else None


def _differences(preset: Preset, trained: Preset, keys: Iterable[str]) -> tuple[Difference, ...]:
    """Differing values of those ``keys`` that both presets have."""
    pairs = {key: (_value(trained, key), _value(preset, key)) for key in keys}
    return tuple(
        Difference(key, _setting(trained, key))
        for key, (before, now) in pairs.items()
        if None not in (before, now) and not _same(before, now)
    )


def _interpolator_differences(preset: Preset, trained: Preset) -> tuple[Difference, ...]:
    """A differing kind, else differing options, of those that both presets name."""
    before, now = trained.interpolator, preset.interpolator
    if before.kind != now.kind:
        return (Difference("interpolator.kind", before.kind),)
    names = before.options.keys() & now.options.keys()
    changed = sorted(name for name in names if before.options[name] != now.options[name])
    return tuple(Difference(f"interpolator.options.{name}", before.options[name]) for name in changed)


def _detectron2_differences(preset: Preset, trained: Preset) -> tuple[Difference, ...]:
    if not preset.detector.kind == trained.detector.kind == "detectron2":
        return ()
    from afictl.presets.detectron2_configs import read_config  # detectron2 is optional

    sources = [getattr(detector, "source", "") for detector in (trained.detector, preset.detector)]
    if sources[0] == sources[1]:
        return ()
    before, now = map(read_config, sources)
    pairs = {key: (_config_value(before, key), _config_value(now, key)) for key in _DETECTRON2_KEYS}
    return tuple(Difference(key, old) for key, (old, new) in pairs.items() if old != new)


def _config_value(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return json.loads(json.dumps(config))  # sequences of one type


def _flags(differences: Iterable[Difference]) -> str:
    """``--set`` flags for the values before, as the shell takes them."""
    return " ".join(f"--set {difference}" for difference in differences)


def _setting(preset: Preset, key: str) -> object:
    """The value of a dotted key; None where the kind of the section has no such key."""
    section, name = key.split(".")
    return getattr(getattr(preset, section), name, None)


def _value(preset: Preset, key: str) -> object:
    """The part of a setting that weights depend on."""
    value = _setting(preset, key)
    is_adapted = preset.detector.kind in ("torchvision", "detectron2")  # whose tensor names show the backbone
    if key == "backbone.name":
        return None if is_adapted else str(value).partition(".")[0]  # without the tag of ImageNet weights
    if key == "backbone.options" and isinstance(value, dict):
        return {name: option for name, option in value.items() if name not in _TRAINING_OPTIONS}
    return value


def _flag_value(value: object) -> str:
    """A value as ``--set`` reads it, without spaces."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _same(one: object, other: object) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return bool(one == other)
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))
