"""Checks of an experiment before training, and ``compare.json`` with its settings and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lightning_fabric import Fabric

from afictl.comparison.experiment.comparison_run import is_finished, read_result
from afictl.comparison.experiment.fingerprints import compute_fingerprints, find_changed_input
from afictl.comparison.experiment.specification import ExperimentSettings, Method, RunSpecification
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, format_error
from afictl.files import write_text
from afictl.folder_lock import require_unlocked
from afictl.presets import upgrade_settings
from afictl.run_folder import COMPARISON_SETTINGS, CONFIG, STATE, absolute_path, is_vacant
from afictl.training.hardware import hardware_record
from afictl.training.initial_weights import build_seeded_detector, load_initial_weights, resolve_interpolator
from afictl.training.run_writer import config_differences
from afictl.training.splits import load_splits, uses_masks

_FINGERPRINTS = "contents"
"""Key of the fingerprints in ``compare.json``; absent in files of earlier versions."""


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
    run_on_rank_zero(lambda: _check_locks(unfinished_runs), fabric.global_rank, fabric.world_size)
    content = _check_settings_file(fabric, settings)
    unfinished_methods = {run.method for run in unfinished_runs}
    for method in settings.methods:
        if method.name in unfinished_methods:
            _check_interpolator(settings, method)
    for run in unfinished_runs:
        run.initial_weights.check_paths(resumes=(run.folder / STATE).is_file())
    if any(not (run.folder / CONFIG).is_file() for run in unfinished_runs):
        _check_data_and_weights(settings, unfinished_runs[0])
    if fabric.is_global_zero:
        for run in runs:
            if run not in unfinished_runs:
                (run.folder / STATE).unlink(missing_ok=True)  # of a comparison that was killed before it removed it
        settings.output.mkdir(parents=True, exist_ok=True)
        write_text(settings.output / COMPARISON_SETTINGS, json.dumps(content, indent=2))
    return unfinished_runs


def _check_locks(runs: Sequence[RunSpecification]) -> None:
    """Refuse a run that another command trains."""
    for run in runs:
        require_unlocked(run.folder)


def experiment_record(fabric: Fabric, settings: ExperimentSettings) -> dict[str, object]:
    """Settings of all runs as JSON values."""
    return {
        "preset": settings.preset.model_dump(mode="json"),
        "data": absolute_path(settings.data),
        "weights": absolute_path(settings.weights),
        "backbone_weights": absolute_path(settings.backbone_weights),
        "precision": hardware_record(fabric)["precision"],
    }


def _check_interpolator_of_result(run: RunSpecification) -> None:
    """Refuse a finished run of another interpolator under the same name."""
    stored_source = read_result(run.folder)["interpolator"]
    source = run.initial_weights.as_config()["interpolator"]
    if stored_source != source:
        raise UserError(
            f"{run.folder}: is the result of {stored_source}, not of {source}; give {source} another name, NAME=RUN"
        )


def _check_interpolator(settings: ExperimentSettings, method: Method) -> None:
    """Refuse an interpolator that cannot be built or loaded, or is incompatible with the neck."""
    try:
        resolve_interpolator(settings.preset, method.source, seed=0)
    except UserError as error:
        reason = str(error).removeprefix("--interpolator ").removeprefix(f"{method.source}: ")
        raise UserError(f"--interpolators {method.name}={method.source}: {reason}") from None


def _check_data_and_weights(settings: ExperimentSettings, run: RunSpecification) -> None:
    """Refuse invalid data, and initial weights that are incompatible with the preset."""
    splits = load_splits(settings.data)
    uses_masks(settings.preset, splits)
    preset, interpolator = resolve_interpolator(settings.preset, run.initial_weights.interpolator, run.seed)
    detector = build_seeded_detector(preset, interpolator, len(splits.train.classes), run.seed)
    load_initial_weights(detector, run.initial_weights)


def _check_settings_file(fabric: Fabric, settings: ExperimentSettings) -> dict[str, object]:
    """Return the content for ``compare.json``; refuse a folder of another comparison, or with other content."""
    reason = ""
    content: dict[str, object] = {}
    if fabric.is_global_zero:  # the reason is broadcast, so that every rank raises
        try:
            reason, content = _merge_settings(settings, json.loads(json.dumps(experiment_record(fabric, settings))))
        except OSError as error:
            reason = format_error(error)
        except ValueError as error:
            reason = f"{settings.output}: {format_error(error)}"
    reason = fabric.broadcast(reason)
    if reason:
        raise UserError(reason)
    return content


def _merge_settings(settings: ExperimentSettings, record: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Return an error about the output folder, empty without one, and the content for its ``compare.json``."""
    output, path = settings.output, settings.output / COMPARISON_SETTINGS
    fingerprints = compute_fingerprints(settings)
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            return f"{path}: has no settings of a comparison; choose another --output", {}
        old = stored.pop(_FINGERPRINTS, {})
        changed_keys = config_differences(upgrade_settings(stored), record)
        if changed_keys:
            reason = f"a comparison with other settings ({', '.join(changed_keys)}); choose another --output"
            return f"{path}: {reason}", {}
        return find_changed_input(settings, old, fingerprints), {**stored, _FINGERPRINTS: old | fingerprints}
    if not is_vacant(output):
        return f"{output} is not empty and holds no comparison: choose another --output", {}
    return "", {**record, _FINGERPRINTS: fingerprints}
