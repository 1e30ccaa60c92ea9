"""Detector files: one safetensors file with the weights, the preset and the classes of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from afictl.detectors import Detector, build_detector
from afictl.errors import UserError
from afictl.presets import InterpolatorConfig, Preset, parse_preset
from afictl.tensor_files import save_tensors
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.loading import load_tensors

_FORMAT = "detector"
_VERSION = 1
_OTHERS = {"afi-interpolator": "an AF interpolator"}


@dataclass(frozen=True)
class LoadedDetector:
    """A detector read from a file.

    Attributes:
        detector: in eval mode, on the CPU.
        preset: what it was built from.
        classes: name of label k at k - 1.
        metadata: the file's whole description, with ``category_ids``, ``step`` and ``metrics``.
    """

    detector: Detector
    preset: Preset
    classes: tuple[str, ...]
    metadata: dict[str, Any]


def save_detector(path: str | Path, detector: Detector, metadata: Mapping[str, Any]) -> None:
    """Write a detector to one file, replacing an older one at once.

    Args:
        path: file to write, ``.safetensors``.
        detector: its preset is stored with the interpolator that it really holds.
        metadata: JSON-ready ``classes``, ``category_ids``, ``step`` and ``metrics``.
    """
    interpolator = detector.neck.interpolator
    held = InterpolatorConfig(kind=interpolator.kind, options=interpolator.options)
    preset = detector.preset.model_copy(update={"interpolator": held}).model_dump(mode="json")
    description = {**metadata, "format": _FORMAT, "version": _VERSION, "preset": preset}
    save_tensors(path, detector.state_dict(), description)


def load_detector(path: str | Path, interpolator: str | nn.Module | None = None) -> LoadedDetector:
    """Build the detector of a file or run folder and load its weights; nothing is downloaded.

    Args:
        path: file of ``save_detector`` or run folder.
        interpolator: kind or module to use instead of the file's own, which is then left out.

    Raises:
        UserError: unreadable, not a detector file, or its weights and preset do not fit.
    """
    checkpoint = read_checkpoint(path)
    classes, preset = _describe(checkpoint)
    detector = build_detector(preset, num_classes=len(classes), interpolator=interpolator)
    tensors = checkpoint.tensors
    if interpolator is not None:
        prefix = detector.interpolator_prefix
        kept = {k: v for k, v in detector.state_dict().items() if k.startswith(prefix)}
        tensors = {k: v for k, v in tensors.items() if not k.startswith(prefix)} | kept
    report = load_tensors(detector, tensors)
    if not report.complete:
        raise UserError(f"{checkpoint.path}: its weights do not fit its preset '{preset.name}': {report}")
    return LoadedDetector(detector.eval(), detector.preset, classes, checkpoint.metadata)


def _describe(checkpoint: Checkpoint) -> tuple[tuple[str, ...], Preset]:
    held = checkpoint.metadata
    if held.get("format") != _FORMAT:
        first = next(iter(checkpoint.tensors), "none")
        what = _OTHERS.get(str(held.get("format")), "tensors without a description of ours")
        raise UserError(
            f"{checkpoint.path}: holds {what} ({len(checkpoint.tensors)} tensors, first {first}), "
            "not a detector; give a run folder of 'afictl finetune' or a file in it"
        )
    if held.get("version") != _VERSION:
        raise UserError(f"{checkpoint.path}: detector file of version {held.get('version')}; update afictl")
    classes, preset = held.get("classes"), held.get("preset")
    if not isinstance(classes, list) or not isinstance(preset, Mapping):
        raise UserError(f"{checkpoint.path}: its description lacks classes or preset; train or convert it again")
    return tuple(classes), parse_preset(preset, source=str(checkpoint.path))
