"""Inputs of a pre-training: guide, preset and data, read and checked before its first stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from afictl.data.image_listing import orientation_note
from afictl.data.layouts import describe_data
from afictl.detectors import Detector, build_detector
from afictl.errors import UserError
from afictl.presets import Preset, parse_preset
from afictl.training.memory import require_batch_memory
from afictl.training.run_inputs import (
    InputFile,
    RecordedInputs,
    annotation_inputs,
    image_inputs,
    require_unchanged_meanwhile,
    weights_input,
)
from afictl.training.run_writer import RunWriter
from afictl.training.splits import Splits, load_splits, require_split_images, uses_masks
from afictl.weights import LoadedDetector, load_detector, load_tensors
from afictl.weights.checkpoint import find_checkpoint
from afictl.weights.compatibility import arithmetic_differences, difference_note, setting_differences


class PretrainingInputs(NamedTuple):
    """Inputs of both stages."""

    guide_path: Path
    loaded: LoadedDetector
    """The guide as it was trained."""
    guide: Detector
    """The guide with the settings of ``preset``, frozen and on the device."""
    preset: Preset
    data: Path
    splits: Splits
    files: list[InputFile]


def read_pretraining_inputs(
    fabric: Fabric,
    guide_path: Path,
    data: Path,
    kind: str,
    stages: Sequence[int],
    overrides: list[str],
    averaged: bool | None,
) -> PretrainingInputs:
    """Read and check guide, preset and data before the first stage begins; arguments as of ``pretrain``.

    Raises:
        UserError: they cannot be read, or do not fit.
    """
    splits = load_splits(data)
    guide_file = weights_input("guide", find_checkpoint(guide_path))
    loaded = load_detector(guide_path, averaged=averaged)
    require_unchanged_meanwhile(guide_file, weights_input("guide", find_checkpoint(guide_path)))
    preset = parse_preset(_preset_without_other_options(loaded, kind), overrides, source=str(guide_path))
    require_split_images(fabric, splits, uses_masks(preset, splits) and 1 not in stages)
    files = [*annotation_inputs(splits), *guide_file, *image_inputs(fabric, splits)]
    for number in stages:
        require_batch_memory(preset, f"stage{number}", fabric.world_size, fabric.device)
    guide = _rebuild(loaded, preset, guide_path).eval().requires_grad_(False)
    fabric.to_device(guide)
    return PretrainingInputs(guide_path, loaded, guide, preset, data, splits, files)


def _preset_without_other_options(loaded: LoadedDetector, kind: str) -> dict[str, object]:
    """The guide's preset as a mapping, with the options of its interpolator only if it is of ``kind``."""
    preset = loaded.preset
    if preset.interpolator.kind != kind:
        preset = preset.with_interpolator(preset.interpolator.kind, {})
    return preset.model_dump()


def _rebuild(loaded: LoadedDetector, preset: Preset, path: Path) -> Detector:
    """The guide with the settings of ``preset``, all but its interpolator, whose options are those of the new one."""
    trained = loaded.preset
    for key in ("backbone", "neck"):
        if getattr(preset, key) != getattr(trained, key):
            raise UserError(f"--set {key}.*: the guide {path} is trained already; its {key} cannot change")
    for difference in arithmetic_differences(preset, trained):
        raise UserError(f"--set {difference.key}: the guide {path} was trained with {difference}; it cannot change")
    detector = build_detector(preset.model_copy(update={"interpolator": trained.interpolator}), len(loaded.classes))
    report = load_tensors(detector, loaded.detector.state_dict())
    if not report.complete:
        raise UserError(f"--set detector.*: the weights of the guide {path} do not fit any more ({report})")
    return detector


def log_beginning(
    run: RunWriter, number: int, inputs: PretrainingInputs, recorded: RecordedInputs | None, *, with_inputs: bool
) -> None:
    """Log notes and the numbers of images; ``with_inputs``: also guide and data."""
    if recorded and recorded.note:
        run.log(recorded.note)
    splits = inputs.splits
    if with_inputs:
        _log_guide(run, inputs.loaded, inputs.preset, inputs.guide_path)
        run.log(describe_data(inputs.data, {"train": len(splits.train), "val": len(splits.held_out)}))
        for note in filter(None, map(orientation_note, splits)):
            run.log(note)
    counts = f"{len(splits.train)} training images, {len(splits.held_out)} held out"
    run.log(f"stage {number} of {inputs.preset.name}: {counts}")


def _log_guide(run: RunWriter, loaded: LoadedDetector, preset: Preset, path: Path) -> None:
    run.log(f"guide {path}: {loaded.report}")
    changed = setting_differences(preset.model_copy(update={"interpolator": loaded.preset.interpolator}), loaded.preset)
    if note := difference_note(changed, path):
        run.log(note)
    kind = loaded.preset.interpolator.kind
    if kind != "nearest":
        run.log(f"warning: the guide {path} interpolates with {kind}; a guide in the paper with nearest")
