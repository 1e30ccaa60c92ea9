"""Checks of an experiment before training, and ``compare.json`` with its settings and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.experiment.fingerprints import compute_fingerprints, find_changed_input, fingerprints_of_run
from afictl.comparison.experiment.specification import (
    ExperimentSettings,
    Method,
    RunSpecification,
    resolve_method,
)
from afictl.comparison.records import ExperimentRecord, read_experiment, read_result
from afictl.detectors import build_detector
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError
from afictl.files import write_text
from afictl.meta_device import building_on_meta_device
from afictl.presets import Preset, upgrade_settings, with_former_values
from afictl.run_folder import COMPARISON_SETTINGS, CONFIG, STATE, absolute_path, has_records, is_vacant
from afictl.run_records import read_config
from afictl.training.hardware import hardware_record
from afictl.training.initial_weights import build_seeded_detector, load_initial_weights, resolve_interpolator
from afictl.training.memory import require_batch_memory
from afictl.training.precision import AUTO
from afictl.training.process_count import process_dependence, process_mismatch
from afictl.training.run_inputs import RecordedInputs, read_recorded_inputs
from afictl.training.run_writer import config_differences, describe_differences
from afictl.training.splits import load_splits, require_split_images, uses_masks
from afictl.training.stage3 import in_checkpoint_order, in_run_order

_INPUTS = {"classes", "contents"}
"""Keys of ``compare.json`` that are no settings."""


def check_experiment(fabric: Fabric, settings: ExperimentSettings) -> list[RunSpecification]:
    """Write ``compare.json`` and return the unfinished runs.

    Raises:
        UserError: invalid or incompatible data, weights, output or interpolator.
    """
    runs = settings.runs()
    unfinished_runs: list[RunSpecification] = fabric.broadcast([run for run in runs if not is_finished(run.folder)])
    for run in runs:
        if run not in unfinished_runs:
            _check_interpolator_of_result(run)
    record = _check_settings_file(fabric, settings)
    for note in run_on_rank_zero(lambda: _check_processes(fabric, settings), fabric.global_rank, fabric.world_size):
        fabric.print(note)
    unfinished_runs = [replace(run, inputs=_inputs_of_run(settings, run, record)) for run in unfinished_runs]
    stateless_methods = {run.method for run in unfinished_runs if not (run.folder / STATE).is_file()}
    for method in settings.methods:
        if method.name in stateless_methods:
            preset, _ = resolve_method(settings.preset, method, settings.initial_weights(method).averaged_interpolator)
            _require_suitable(preset, method)
    for run in unfinished_runs:
        run.initial_weights.check_paths(resumes=(run.folder / STATE).is_file())
    new_runs = [run for run in unfinished_runs if not (run.folder / CONFIG).is_file()]
    if new_runs:
        require_batch_memory(settings.preset, "train", fabric.world_size, fabric.device)
        _check_data_and_weights(settings, new_runs[0])
    if unfinished_runs:
        splits = load_splits(settings.data)
        require_split_images(fabric, splits, uses_masks(settings.preset, splits))
    if fabric.is_global_zero:
        for run in runs:
            if run not in unfinished_runs:
                (run.folder / STATE).unlink(missing_ok=True)  # of a comparison that was killed before it removed it
        settings.output.mkdir(parents=True, exist_ok=True)
        write_text(settings.output / COMPARISON_SETTINGS, json.dumps(record.model_dump(), indent=2))
    return unfinished_runs


def keep_former_values(fabric: Fabric, preset: Preset, output: Path) -> Preset:
    """``preset``, with the values of an earlier version's preset that the comparison in ``output`` began with."""

    def merge() -> tuple[Preset, str]:
        if not (output / COMPARISON_SETTINGS).is_file():
            return preset, ""
        return with_former_values(preset, read_experiment(output).preset, "the comparison")

    effective_preset, note = run_on_rank_zero(merge, fabric.global_rank, fabric.world_size)
    if note:
        fabric.print(note)
    return effective_preset


def precision_of_comparison(precision: str, output: Path) -> str:
    """``precision``, but for ``auto`` the one that the comparison in ``output`` began with, if there is one.

    Raises:
        UserError: its ``compare.json`` is unreadable.
    """
    begun = precision == AUTO and (output / COMPARISON_SETTINGS).is_file()
    return read_experiment(output).precision if begun else precision


def _check_processes(fabric: Fabric, settings: ExperimentSettings) -> list[str]:
    """Notes on runs of another number of processes; refuse them where the results depend on it."""
    dependence = process_dependence(settings.preset)
    notes = []
    for run in settings.runs():
        if has_records(run.folder) and (config := run.folder / CONFIG).is_file():
            processes = read_config(config).hardware.processes
            problem, note = process_mismatch(processes, fabric.world_size, dependence)
            if problem:
                raise UserError(f"{run.folder}: {problem}, or choose another --output")
            notes += [f"{run}: {note}"] if note else []
    return notes


def experiment_record(fabric: Fabric, settings: ExperimentSettings) -> dict[str, object]:
    """Settings of all runs as JSON values."""
    return {
        "preset": settings.preset.model_dump(mode="json"),
        "data": absolute_path(settings.data),
        "weights": absolute_path(settings.weights),
        "backbone_weights": absolute_path(settings.backbone_weights),
        "averaged": settings.averaged,
        "tune": {settings.tuning.key: list(settings.tuning.values)} if settings.tuning else {},
        "precision": hardware_record(fabric)["precision"],
    }


def _check_interpolator_of_result(run: RunSpecification) -> None:
    """Refuse a finished run of another interpolator under the same name."""
    stored_source = read_result(run.folder).interpolator
    source = run.initial_weights.as_config()["interpolator"]
    if stored_source != source:
        raise UserError(
            f"{run.folder}: is the result of {stored_source}, not of {source}; give {source} another name, NAME=RUN"
        )


def _require_suitable(preset: Preset, method: Method) -> None:
    """Refuse an interpolator that a model of another library cannot have."""
    if hasattr(preset.detector, "source"):
        with building_on_meta_device(f"--interpolators {method.name}"):
            build_detector(preset)


def _check_data_and_weights(settings: ExperimentSettings, run: RunSpecification) -> None:
    """Refuse invalid data, and initial weights that are incompatible with the preset."""
    splits = in_run_order(load_splits(settings.data), run.inputs, settings.weights)
    uses_masks(settings.preset, splits)
    initial = run.initial_weights
    preset, interpolator = resolve_interpolator(
        settings.preset, initial.interpolator, run.seed, initial.averaged_interpolator
    )
    detector = build_seeded_detector(preset, interpolator, len(splits.train.classes), run.seed)
    load_initial_weights(detector, initial, splits.train.classes)


def _inputs_of_run(settings: ExperimentSettings, run: RunSpecification, record: ExperimentRecord) -> RecordedInputs:
    fingerprints = fingerprints_of_run(settings, run.method, record.contents)
    return RecordedInputs(settings.output / COMPARISON_SETTINGS, tuple(record.classes), fingerprints)


def _check_settings_file(fabric: Fabric, settings: ExperimentSettings) -> ExperimentRecord:
    """Return the content for ``compare.json``; refuse a folder of another comparison, or with other content."""

    def merge() -> ExperimentRecord:
        present = json.loads(json.dumps(experiment_record(fabric, settings)))
        return _merge_settings(settings, ExperimentRecord.model_validate(present))

    return run_on_rank_zero(merge, fabric.global_rank, fabric.world_size)


def _merge_settings(settings: ExperimentSettings, present: ExperimentRecord) -> ExperimentRecord:
    """Return the content for ``compare.json``: the settings, the class order and all fingerprints.

    Raises:
        UserError: the output folder holds another comparison or something else, or an input has changed.
    """
    output, path = settings.output, settings.output / COMPARISON_SETTINGS
    is_started = path.is_file()
    if not is_started and not is_vacant(output):
        raise UserError(f"{output} is not empty and holds no comparison: choose another --output")
    record = read_experiment(output) if is_started else present
    stored, new = (item.model_dump(exclude=_INPUTS) for item in (record, present))
    recorded = upgrade_settings(stored)
    if changed_keys := config_differences(recorded, new):
        reason = f"a comparison with other settings: it has {describe_differences(recorded, new, changed_keys)}"
        raise UserError(f"{path}: {reason}; choose another --output")
    fingerprints = compute_fingerprints(settings)
    if reason := find_changed_input(settings, record.contents, fingerprints):
        raise UserError(reason)
    classes = record.classes or list(_class_order(settings))
    return record.model_copy(update={"classes": classes, "contents": record.contents | fingerprints})


def _class_order(settings: ExperimentSettings) -> Sequence[str]:
    """Class names in label order: those of a run that an earlier version has begun, or of the initial weights."""
    for run in settings.runs():
        recorded = read_recorded_inputs(run.folder)
        if recorded and recorded.classes:
            return recorded.classes
    return in_checkpoint_order(load_splits(settings.data), settings.weights).train.classes
