"""Detector files: one safetensors file with the weights, the preset and the classes of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afictl.detectors import Detector, build_detector
from afictl.errors import UserError
from afictl.interpolators import Interpolator
from afictl.meta_device import building_on_meta_device, require_bounded_options
from afictl.necks import preset_with
from afictl.presets import Preset, parse_preset
from afictl.tensor_files import save_tensors
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.description import DETECTOR, VERSION, describe_detector
from afictl.weights.layouts import describe_content, to_afictl
from afictl.weights.loading import LoadReport, compare_tensors, differences_of, load_tensors


@dataclass(frozen=True)
class LoadedDetector:
    """A detector read from a file.

    Attributes:
        detector: in eval mode, on the CPU.
        preset: the preset that it was built from.
        classes: name of label k at index k - 1.
        metadata: the complete description of the file, with ``category_ids``, ``step`` and ``metrics``.
        report: the load report; complete unless ``partial`` was set or the interpolator is another one.
    """

    detector: Detector
    preset: Preset
    classes: tuple[str, ...]
    metadata: dict[str, Any]
    report: LoadReport


def save_detector(
    path: str | Path, detector: Detector, metadata: Mapping[str, object], *, named_by_user: bool = False
) -> None:
    """Write a detector to one file, atomically.

    Args:
        path: file to write, ``.safetensors``.
        detector: stored with its preset, in which the interpolator is the one in its neck.
        metadata: JSON-ready ``classes``, ``category_ids``, ``step`` and ``metrics``.
        named_by_user: as in ``save_tensors``.
    """
    preset = preset_with(detector.preset, detector.neck.interpolator)
    save_tensors(path, detector.state_dict(), describe_detector(preset, metadata), named_by_user=named_by_user)


def load_detector(
    path: str | Path,
    interpolator: str | Interpolator | None = None,
    *,
    partial: bool = False,
    averaged: bool | None = None,
) -> LoadedDetector:
    """Build the detector of a file or run folder and load its weights; nothing is downloaded.

    Args:
        path: file of ``save_detector``, run folder, or a detector of another project in a supported layout.
        interpolator: kind or module that replaces the interpolator of the file.
        partial: leave tensors that are missing in the file at random values, and skip those that do not fit.
        averaged: as in ``read_checkpoint``.

    Raises:
        UserError: unreadable, not a detector file, or its weights and preset do not fit.
    """
    return detector_of(to_afictl(read_checkpoint(path, averaged)), interpolator, partial=partial)


def detector_classes(path: str | Path) -> tuple[str, ...]:
    """The class names of a detector file, without building the detector.

    Raises:
        UserError: unreadable, or not a detector file.
    """
    return _described_classes(to_afictl(read_checkpoint(path)))


def detector_of(
    checkpoint: Checkpoint, interpolator: str | Interpolator | None = None, *, partial: bool = False
) -> LoadedDetector:
    """``load_detector`` for a checkpoint that is already read and has afictl's tensor names."""
    classes, preset = _described_classes(checkpoint), described_preset(checkpoint)
    # The memory of a detector that fits its file is bounded by the size of the file.
    with building_on_meta_device(checkpoint.path):
        meta_detector = build_detector(preset, num_classes=len(classes))
    _check_fit(compare_tensors(meta_detector, checkpoint.tensors), checkpoint, preset, partial)
    detector = build_detector(preset, num_classes=len(classes), interpolator=interpolator)
    tensors = checkpoint.tensors
    if interpolator is not None:
        prefix = detector.interpolator_prefix
        interpolator_state = {k: v for k, v in detector.state_dict().items() if k.startswith(prefix)}
        tensors = {k: v for k, v in tensors.items() if not k.startswith(prefix)} | interpolator_state
    differences = () if interpolator is None else differences_of(detector, checkpoint)
    report = replace(load_tensors(detector, tensors), notes=checkpoint.notes, differences=differences)
    return LoadedDetector(detector.eval(), detector.preset, classes, checkpoint.metadata, report)


def _check_fit(report: LoadReport, checkpoint: Checkpoint, preset: Preset, partial: bool) -> None:
    if report.complete or (partial and report.matched):
        return
    advice = "" if partial else "; --partial loads the tensors that fit"
    raise UserError(f"{checkpoint.path}: its weights do not fit its preset '{preset.name}': {report}{advice}")


def described_preset(checkpoint: Checkpoint) -> Preset:
    """The preset in the description of a detector.

    Raises:
        UserError: not a detector, or its description has another version, no preset or numbers out of range.
    """
    _require_detector(checkpoint)
    preset = checkpoint.metadata.get("preset")
    if not isinstance(preset, Mapping):
        raise _incomplete_description(checkpoint)
    parsed = parse_preset(preset, source=str(checkpoint.path))
    for options in (parsed.backbone.options, parsed.interpolator.options):
        require_bounded_options(options, checkpoint.path)
    return parsed


def _described_classes(checkpoint: Checkpoint) -> tuple[str, ...]:
    _require_detector(checkpoint)
    classes = checkpoint.metadata.get("classes")
    if not isinstance(classes, list):
        raise _incomplete_description(checkpoint)
    return tuple(classes)


def _require_detector(checkpoint: Checkpoint) -> None:
    if checkpoint.metadata.get("format") != DETECTOR:
        advice = "give a run folder of 'afictl finetune', a file in it or a detector of detectron2 or AFI-GAN"
        raise UserError(f"{checkpoint.path}: contains {describe_content(checkpoint)}, not a detector; {advice}")
    if checkpoint.metadata.get("version") != VERSION:
        version = checkpoint.metadata.get("version")
        raise UserError(f"{checkpoint.path}: detector file of version {version}; update afictl")


def _incomplete_description(checkpoint: Checkpoint) -> UserError:
    return UserError(f"{checkpoint.path}: its description lacks classes or preset; train or convert it again")
