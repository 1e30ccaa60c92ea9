"""Initial weights of a detector: interpolator, checkpoint of a detector, or backbone weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from afictl.backbones import load_pretrained
from afictl.detectors import Detector, build_detector
from afictl.errors import UserError, did_you_mean
from afictl.interpolators import Interpolator, build_configured, interpolator_kinds, kind_of_source
from afictl.necks import check_interpolator
from afictl.presets import InterpolatorConfig, Preset, parse_preset
from afictl.run_folder import BEST, INTERPOLATOR, LAST, absolute_path
from afictl.tensor_files import check_file
from afictl.training.class_layers import describe_class_layers, load_for_classes
from afictl.training.run_inputs import InputFile, RecordedInputs, weights_input
from afictl.weights import (
    LoadReport,
    load_backbone_weights,
    load_interpolator,
    read_checkpoint,
    read_weights,
)
from afictl.weights.checkpoint import find_checkpoint
from afictl.weights.compatibility import difference_note, pixel_differences
from afictl.weights.layouts import stated_classes
from afictl.weights.loading import differences_of


@dataclass(frozen=True)
class InitialWeights:
    """Sources of a detector's initial weights, all optional."""

    interpolator: str | None = None
    """Kind, as ``KIND`` or ``kind:KIND``, run of ``pretrain`` or interpolator file; None for the preset's. The options
    ``interpolator.options`` of a preset are for its own kind: another kind has its defaults, a file its own options."""
    weights: Path | None = None
    """Checkpoint or run of a detector."""
    backbone_weights: Path | None = None
    """Local file instead of the ImageNet download."""
    partial: bool = False
    """Load the tensors of ``weights`` that fit, whatever is missing."""
    averaged: bool | None = None
    """Take the averaged or the trained weights of ``weights`` or ``backbone_weights``, else of ``interpolator``; None:
    as in ``read_checkpoint``."""

    @property
    def averaged_interpolator(self) -> bool | None:
        """``averaged`` for the file of ``interpolator``."""
        return None if self.weights or self.backbone_weights else self.averaged

    @property
    def is_trained_interpolator(self) -> bool:
        """Whether ``interpolator`` is a run or a file."""
        return bool(self.interpolator) and kind_of_source(str(self.interpolator)) is None

    def as_config(self) -> dict[str, object]:
        """The sources as ``config.yaml`` records them, with absolute paths."""
        kind = kind_of_source(self.interpolator) if self.interpolator else ""
        return {
            "interpolator": absolute_path(self.interpolator) if kind is None else kind,
            "weights": absolute_path(self.weights),
            "backbone_weights": absolute_path(self.backbone_weights),
            **({} if self.averaged is None else {"averaged": self.averaged}),
        }

    def input_files(self) -> list[InputFile]:
        """The files that exist, of those that the run reads when it begins."""
        files = []
        for name, path in (("weights", self.weights), ("backbone_weights", self.backbone_weights)):
            with suppress(UserError):  # absent
                files += weights_input(name, find_checkpoint(path)) if path else []
        if self.interpolator and self.is_trained_interpolator:
            with suppress(UserError):
                files += weights_input("interpolator", find_interpolator_file(self.interpolator))
        return files

    def check_paths(self, resumes: bool) -> None:
        """Check the paths before anything is loaded; a run that ``resumes`` reads none of them.

        Raises:
            UserError: a path is absent or holds no weights, or two sources exclude each other.
        """
        if self.weights and self.backbone_weights:
            raise UserError("--backbone-weights has no effect with --weights: the detector already has a backbone")
        if resumes:
            return
        if self.interpolator and self.is_trained_interpolator:
            find_interpolator_file(self.interpolator)
        for path in (self.weights, self.backbone_weights):
            if path:
                check_file(find_checkpoint(path))


def resolve_interpolator(
    preset: Preset, source: str | None, seed: int, averaged: bool | None = None
) -> tuple[Preset, Interpolator]:
    """Build or load the interpolator of ``--interpolator``; returns the preset with its kind, and the module.

    ``averaged`` is that of ``read_checkpoint``, for a file. ``preset.interpolator.options`` apply to a ``source`` of
    the preset's own kind only; another kind has its defaults, as the methods of a comparison have.

    Raises:
        UserError: ``source`` is neither a kind nor a run or file, or both, or the interpolator has another width than
            the neck.
    """
    torch.manual_seed(seed)
    channels = preset.neck.channels
    kind = preset.interpolator.kind if source is None else kind_of_source(source)
    if kind is not None:
        options = preset.with_kind(kind).interpolator.options
        module = build_configured(InterpolatorConfig(kind=kind, options=options), channels)
    else:
        module = load_interpolator(find_interpolator_file(str(source)), averaged=averaged)
        kind, options = module.kind, module.options
        if module.channels != channels:
            raise UserError(
                f"{source}: the interpolator has {module.channels} channels, the neck of {preset.name} {channels};"
                f" set neck.channels={module.channels} or pre-train with this preset"
            )
        try:
            check_interpolator(preset.neck, module)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
    return preset.with_interpolator(kind, options), module


def recorded_interpolator(preset: Preset, recorded: RecordedInputs) -> tuple[Preset, Interpolator]:
    """``resolve_interpolator`` for a run with a saved state, which needs no weights of the interpolator.

    Raises:
        UserError: the recorded preset is invalid.
    """
    config = parse_preset(recorded.preset, source=str(recorded.source)).interpolator
    module = build_configured(config, preset.neck.channels)
    return preset.with_interpolator(config.kind, config.options), module


def build_seeded_detector(preset: Preset, interpolator: Interpolator, num_classes: int, seed: int) -> Detector:
    """Build a detector whose random weights depend on the seed alone, not on its interpolator."""
    torch.manual_seed(seed)
    return build_detector(preset, num_classes, interpolator)


def load_initial_weights(
    detector: Detector, initial: InitialWeights, classes: Sequence[str] | None = None
) -> list[str]:
    """Load ``initial`` into a new detector; returns a log line for each source.

    Class layers for other classes than ``classes``, the names in label order, are left out; None: for any classes.

    Raises:
        UserError: weights that do not fit, or ImageNet weights that are not available.
    """
    if initial.weights:
        return _load_detector_weights(detector, initial, initial.weights, classes)
    lines = []
    if initial.backbone_weights:
        report = load_backbone_weights(
            detector.backbone, initial.backbone_weights, detector.input, averaged=initial.averaged
        )
        lines.append(f"{initial.backbone_weights}: {replace(report, differences=())}")
        note = difference_note(report.differences, initial.backbone_weights)
        lines += [note] if note else []
    elif detector.preset.backbone.pretrained:
        load_pretrained(detector.backbone)
        lines.append(f"ImageNet weights loaded into {detector.preset.backbone.name}")
        note = difference_note(pixel_differences(detector.backbone, detector.input), detector.preset.backbone.name)
        lines += [note] if note else []
    return [*lines, _interpolator_line(detector, initial)]


def _load_detector_weights(
    detector: Detector, initial: InitialWeights, path: Path, classes: Sequence[str] | None
) -> list[str]:
    checkpoint = read_weights(detector, path, initial.averaged)
    tensors, prefix = checkpoint.tensors, detector.interpolator_prefix
    if initial.interpolator:  # instead of the checkpoint's
        tensors = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    report = load_for_classes(detector, tensors, stated_classes(checkpoint), classes)
    report = replace(report, notes=checkpoint.notes)
    if not (initial.partial and report.matched):
        _require_fit(detector, report, path, checkpoint.metadata)
    lines = [f"{path}: {_without_interpolator(report, prefix)}"]
    differences = differences_of(detector, checkpoint)
    detector_differences = [difference for difference in differences if not difference.key.startswith("interpolator.")]
    if note := difference_note(detector_differences, path):
        lines.append(note)
    if len(detector_differences) < len(differences) or any(name.startswith(prefix) for name in report.missing):
        lines.append(_interpolator_line(detector, initial))
    return [*lines, *describe_class_layers(detector, report, checkpoint, classes)]


def _without_interpolator(report: LoadReport, prefix: str) -> LoadReport:
    """The report for the log, where an interpolator that is on purpose not the checkpoint's is no missing part."""
    missing = tuple(name for name in report.missing if not name.startswith(prefix))
    if len(missing) == len(report.missing) or any(name.startswith(prefix) for name in report.matched):
        return report
    return replace(report, missing=missing, notes=(*report.notes, "all but the interpolator"))


def _interpolator_line(detector: Detector, initial: InitialWeights) -> str:
    """Log line for an interpolator whose weights are not those of ``initial.weights``."""
    interpolator = detector.neck.interpolator
    if initial.is_trained_interpolator:
        file = find_interpolator_file(str(initial.interpolator))
        notes = "".join(f"; {note}" for note in read_checkpoint(file, initial.averaged_interpolator).notes)
        loaded = f"{len(interpolator.state_dict())} tensors loaded"
        return f"interpolator: {initial.interpolator} (trained; {loaded}){notes}"
    is_learned = any(True for _ in interpolator.parameters())
    return f"interpolator: {'fresh ' if is_learned else ''}{interpolator.kind}"


def _require_fit(detector: Detector, report: LoadReport, path: Path, metadata: Mapping[str, object]) -> None:
    """Allow differences from the checkpoint in a complete interpolator and in the shapes of class layers only."""
    prefix = detector.interpolator_prefix
    other_interpolator = not any(name.startswith(prefix) for name in report.matched)
    misfits = [name for name in report.mismatched if not name.startswith(detector.class_layers)]
    for name in (*report.missing, *report.unexpected):
        if not (other_interpolator and name.startswith(prefix)):
            misfits.append(name)
    if not misfits and report.matched:
        return
    first = f"; first: {misfits[0]}" if misfits else ""
    hint = "; --partial takes what fits" if report.matched else ""
    presets = _different_presets(detector.preset, metadata)
    raise UserError(f"{path}: is a checkpoint of another model{presets} ({report}{first}){hint}")


def _different_presets(preset: Preset, metadata: Mapping[str, object]) -> str:
    """The end of an error that names both presets, if their detectors are of different kinds."""
    values = metadata.get("preset")
    other = parse_preset(values, source="the checkpoint") if isinstance(values, Mapping) else preset
    return f": it holds {other.name}, this is {preset.name}" if other.detector.kind != preset.detector.kind else ""


def find_interpolator_file(source: str) -> Path:
    """The interpolator file of a run, or ``source`` itself if it is a file.

    Raises:
        UserError: ``source`` is neither a run nor a file.
    """
    path = Path(source)
    if path.is_dir() and (path / INTERPOLATOR).is_file():
        return path / INTERPOLATOR
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path / name
    if path.is_file():
        return path
    if path.exists():
        raise UserError(f"--interpolator {source}: contains no interpolator, so it is no run of pretrain or finetune")
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"--interpolator {source}: no such file or folder")
    raise UserError(
        f"--interpolator {source}: neither a kind nor a run of pretrain nor a file"
        f"{did_you_mean(source, interpolator_kinds())}"
    )
