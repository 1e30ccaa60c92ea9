"""Where the weights of a detector come from before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from afictl.backbones import load_pretrained
from afictl.detectors import Detector, build_detector
from afictl.errors import UserError
from afictl.interpolators import Interpolator, build_interpolator, interpolator_kinds
from afictl.presets import Preset, parse_preset
from afictl.run_folder import BEST, INTERPOLATOR, LAST, absolute_path
from afictl.tensor_files import check_file
from afictl.weights import LoadReport, load_backbone_weights, load_interpolator, load_tensors, read_weights
from afictl.weights.checkpoint import find_checkpoint
from afictl.weights.compatibility import anchor_note


@dataclass(frozen=True)
class InitialWeights:
    """Where a detector's weights come from.

    ``interpolator`` is a kind, a run of ``pretrain`` or a file with an interpolator; ``weights`` a detector to start
    from; ``backbone_weights`` a local file instead of the ImageNet download. All optional. ``partial`` takes of
    ``weights`` what fits, whatever is missing.
    """

    interpolator: str | None = None
    weights: Path | None = None
    backbone_weights: Path | None = None
    partial: bool = False

    def describe(self) -> dict[str, str]:
        """The sources as a run records them, the same from whichever folder they are named."""
        kind = self.interpolator is None or self.interpolator in interpolator_kinds()
        return {
            "interpolator": (self.interpolator or "") if kind else absolute_path(self.interpolator),
            "weights": absolute_path(self.weights),
            "backbone_weights": absolute_path(self.backbone_weights),
        }

    def check(self, resumes: bool) -> None:
        """Look at the paths alone, before anything is loaded; a run that ``resumes`` needs the interpolator alone.

        Raises:
            UserError: one is not there, or holds no weights, or two of them exclude each other.
        """
        if self.weights and self.backbone_weights:
            raise UserError("--backbone-weights has no effect with --weights: the detector already brings its backbone")
        if self.interpolator and self.interpolator not in interpolator_kinds():
            find_interpolator_file(self.interpolator)
        for path in (self.weights, self.backbone_weights):
            if path and not resumes:
                check_file(find_checkpoint(path))


def resolve_interpolator(preset: Preset, source: str | None, seed: int) -> tuple[Preset, Interpolator]:
    """The interpolator that ``--interpolator`` names, and the preset that says so.

    Raises:
        UserError: neither a kind nor a run or file, or of another width than the neck.
    """
    torch.manual_seed(seed)
    channels = preset.neck.channels
    if source is None or source in interpolator_kinds():
        kind = source or preset.interpolator.kind
        options = preset.interpolator.options if kind == preset.interpolator.kind else {}
        module = build_interpolator(kind, channels, **options)
    else:
        module = load_interpolator(find_interpolator_file(source))
        kind, options = module.kind, module.options
        if module.channels != channels:
            raise UserError(
                f"{source}: the interpolator has {module.channels} channels, the neck of {preset.name} {channels};"
                f" set neck.channels={module.channels} or pre-train with this preset"
            )
    return preset.with_interpolator(kind, options), module


def build_seeded_detector(preset: Preset, interpolator: Interpolator, num_classes: int, seed: int) -> Detector:
    """A detector whose random start depends on the seed alone, not on which interpolator it holds."""
    torch.manual_seed(seed)
    return build_detector(preset, num_classes, interpolator)


def load_initial_weights(detector: Detector, start: InitialWeights) -> list[str]:
    """Load what ``start`` names into a fresh detector; returns a line for each load.

    Raises:
        UserError: weights that do not fit, or ImageNet weights that cannot be had.
    """
    if start.weights:
        checkpoint = read_weights(detector, start.weights)
        tensors = checkpoint.tensors
        if start.interpolator:  # the one that was asked for, not the one of the checkpoint
            prefix = detector.interpolator_prefix
            tensors = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
        report = load_tensors(detector, tensors)
        _check(detector, report, start, checkpoint.metadata)
        note = anchor_note(detector.preset, checkpoint)
        return [f"{start.weights}: {report}", *([note] if note else []), *_replaced(detector, report, start)]
    if start.backbone_weights:
        report = load_backbone_weights(detector.backbone, start.backbone_weights, detector.input)
        return [f"{start.backbone_weights}: {report}", _origin(detector, start)]
    if detector.preset.backbone.pretrained:
        load_pretrained(detector.backbone)
        return [f"ImageNet weights loaded into {detector.preset.backbone.name}", _origin(detector, start)]
    return [_origin(detector, start)]


def _origin(detector: Detector, start: InitialWeights) -> str:
    """Where the interpolator comes from when ``start.weights`` do not bring it."""
    interpolator = detector.neck.interpolator
    if start.interpolator and start.interpolator not in interpolator_kinds():
        return f"interpolator: {start.interpolator} (trained; {len(interpolator.state_dict())} tensors loaded)"
    learned = any(True for _ in interpolator.parameters())
    return f"interpolator: {'fresh ' if learned else ''}{interpolator.kind}"


def _replaced(detector: Detector, report: LoadReport, start: InitialWeights) -> list[str]:
    """What did not come from the weights that were loaded, in words."""
    lines = []
    if any(name.startswith(detector.interpolator_prefix) for name in report.missing):
        lines.append(_origin(detector, start))
    other = [name for name in report.mismatched if name.startswith(detector.class_layers)]
    if other:
        lines.append(f"layers of other classes start anew for {detector.num_classes}: {', '.join(other)}")
    return lines


def _check(detector: Detector, report: LoadReport, start: InitialWeights, metadata: Mapping[str, Any]) -> None:
    """Only a whole interpolator, and class-dependent layers in their shape, may differ from what is started from."""
    if start.partial and report.matched:
        return
    wrong = [name for name in report.mismatched if not name.startswith(detector.class_layers)]
    prefix = detector.interpolator_prefix
    whole = not any(name.startswith(prefix) for name in report.matched)
    wrong += [n for n in (*report.missing, *report.unexpected) if not (whole and n.startswith(prefix))]
    if wrong or not report.matched:
        advice = "; --partial takes what fits" if report.matched else ""
        first = f"; first: {wrong[0]}" if wrong else ""
        model = f"is a checkpoint of another model{_named(detector.preset, metadata)}"
        raise UserError(f"{start.weights}: {model} ({report}{first}){advice}")


def _named(preset: Preset, metadata: Mapping[str, Any]) -> str:
    """The names of both presets where the detectors are of different kinds."""
    stored = metadata.get("preset")
    theirs = parse_preset(stored, source="the checkpoint") if isinstance(stored, Mapping) else preset
    return f": it holds {theirs.name}, this is {preset.name}" if theirs.detector.kind != preset.detector.kind else ""


def find_interpolator_file(source: str) -> Path:
    """The file that ``--interpolator`` names, of a run the one that holds its interpolator.

    Raises:
        UserError: no such file or run.
    """
    path = Path(source)
    if path.is_dir() and (path / INTERPOLATOR).is_file():
        return path / INTERPOLATOR
    for name in (BEST, LAST):
        if (path / name).is_file():
            return path / name
    if not path.is_file():
        kinds = ", ".join(interpolator_kinds())
        raise UserError(f"--interpolator {source}: neither a kind ({kinds}) nor a run of pretrain nor a file")
    return path
