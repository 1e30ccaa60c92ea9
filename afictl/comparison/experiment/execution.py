"""Train every cell of a grid under the same conditions: check, train, go on where it stopped."""

from __future__ import annotations

import json
from typing import Any

from lightning_fabric import Fabric

from afictl.comparison.experiment.comparison_run import describe_failure, is_finished, read_result, train_run
from afictl.comparison.experiment.fingerprints import compute_fingerprints, find_changed_input
from afictl.comparison.experiment.parallel import train_in_parallel
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.errors import UserError, format_error
from afictl.files import write_text
from afictl.presets import upgrade_settings
from afictl.run_folder import COMPARISON_SETTINGS, CONFIG, RESULT, STATE, absolute_path
from afictl.training.hardware import hardware_record
from afictl.training.initial_weights import build_seeded_detector, load_initial_weights, resolve_interpolator
from afictl.training.loop import DivergedError
from afictl.training.run_writer import config_differences
from afictl.training.splits import load_splits, uses_masks

_DIGESTS = "contents"
"""Where it keeps what its files held, by their paths; not there in grids of earlier versions."""


def train_experiment(fabric: Fabric, grid: ExperimentSettings, spread: int = 1) -> dict[str, str]:
    """Train what is not finished in ``grid.output``; returns what went wrong, by the name of the cell.

    Everything but the interpolator is the same within a seed: start weights of all other parts, data order,
    augmentation, schedule and evaluation. A cell that was stopped goes on. One that fails does not stop the others,
    except for a fault of one process among several, which leaves the others waiting.

    Args:
        fabric: where to train, unless ``spread``; the processes of one cell.
        grid: what to train.
        spread: how many cells to train at once, each in a process of its own on one device.

    Raises:
        UserError: data, weights, output or an interpolator that do not fit; before anything is trained.
    """
    todo = check_experiment(fabric, grid)
    done = len(grid.jobs()) - len(todo)
    if done:
        fabric.print(f"{done} of {len(grid.jobs())} runs are finished already")
    if others := _other_cells(grid):
        fabric.print(f"left out are finished runs that this command does not name: {', '.join(others)}")
    if spread > 1:
        return train_in_parallel(grid, todo, spread, str(hardware_record(fabric)["precision"]))
    failures = {}
    scaler = fabric.strategy.precision.state_dict()  # of 16-bit gradients; no cell shall start with another's
    for job in todo:
        fabric.print(f"\n{job} ({1 + todo.index(job)} of {len(todo)})")
        fabric.strategy.precision.load_state_dict(scaler)
        problem = _attempt(fabric, grid, job)
        if problem:
            fabric.print(f"{job} failed: {problem}")
            failures[str(job)] = problem
    return failures


def _other_cells(grid: ExperimentSettings) -> list[str]:
    """Finished cells of other methods or seeds in the same folder."""
    named = {job.folder for job in grid.jobs()}
    found = sorted(file.parent for file in grid.output.glob(f"*/seed*/{RESULT}") if file.parent not in named)
    return [str(folder.relative_to(grid.output)) for folder in found]


def _attempt(fabric: Fabric, grid: ExperimentSettings, job: RunSpecification) -> str:
    """Train a cell; returns what went wrong."""
    try:
        train_run(fabric, grid.preset, grid.data, job)
    except DivergedError as error:
        return str(error)
    except Exception as error:
        if fabric.world_size > 1:
            raise
        return describe_failure(error, job.folder)
    return ""


def check_experiment(fabric: Fabric, grid: ExperimentSettings) -> list[RunSpecification]:
    """Keep the conditions in ``compare.json`` and return the cells that are not finished.

    Raises:
        UserError: data, weights, output or an interpolator that do not fit.
    """
    todo: list[RunSpecification] = fabric.broadcast([job for job in grid.jobs() if not is_finished(job.folder)])
    for job in grid.jobs():
        if job not in todo:
            _check_source(job)
    settings = _check_settings(fabric, grid)
    names = list(dict.fromkeys(job.name for job in todo))
    for contender in grid.methods:
        if contender.name in names:
            _check_interpolator(grid, contender.name, contender.source)
    for job in todo:
        job.start.check_paths(resumes=(job.folder / STATE).is_file())
    if any(not (job.folder / CONFIG).is_file() for job in todo):
        _check_start(grid, todo[0])
    if fabric.is_global_zero:
        grid.output.mkdir(parents=True, exist_ok=True)
        write_text(grid.output / COMPARISON_SETTINGS, json.dumps(settings, indent=2))
    return todo


def _check_source(job: RunSpecification) -> None:
    """Refuse a finished result of another interpolator under the same name."""
    held, wanted = read_result(job.folder)["interpolator"], job.start.as_config()["interpolator"]
    if held != wanted:
        raise UserError(f"{job.folder}: is the result of {held}, not of {wanted}; give it another name, NAME=RUN")


def _check_interpolator(grid: ExperimentSettings, name: str, source: str) -> None:
    """Refuse an interpolator that cannot be had or does not fit."""
    try:
        resolve_interpolator(grid.preset, source, seed=0)
    except UserError as error:
        reason = str(error).removeprefix("--interpolator ").removeprefix(f"{source}: ")
        raise UserError(f"--interpolators {name}={source}: {reason}") from None


def _check_start(grid: ExperimentSettings, job: RunSpecification) -> None:
    """Refuse data and start weights that do not fit, which no interpolator mends."""
    splits = load_splits(grid.data)
    uses_masks(grid.preset, splits)
    preset, interpolator = resolve_interpolator(grid.preset, job.start.interpolator, job.seed)
    load_initial_weights(build_seeded_detector(preset, interpolator, len(splits[0].classes), job.seed), job.start)


def experiment_record(fabric: Fabric, grid: ExperimentSettings) -> dict[str, Any]:
    """The conditions that all cells share, as plain values."""
    return {
        "preset": grid.preset.model_dump(mode="json"),
        "data": absolute_path(grid.data),
        "weights": absolute_path(grid.weights),
        "backbone_weights": absolute_path(grid.backbone_weights),
        "precision": hardware_record(fabric)["precision"],
    }


def _check_settings(fabric: Fabric, grid: ExperimentSettings) -> dict[str, Any]:
    """What to keep in ``compare.json``; refuses a folder of a comparison under other conditions, or something else."""
    problem = ""
    settings: dict[str, Any] = {}
    if fabric.is_global_zero:  # told as text, so that every rank learns of it
        try:
            problem, settings = _compare_settings(grid, json.loads(json.dumps(experiment_record(fabric, grid))))
        except OSError as error:
            problem = format_error(error)
        except ValueError as error:
            problem = f"{grid.output}: {format_error(error)}"
    problem = fabric.broadcast(problem)
    if problem:
        raise UserError(problem)
    return settings


def _compare_settings(grid: ExperimentSettings, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What speaks against going on with these settings, and what to keep of them."""
    output, path = grid.output, grid.output / COMPARISON_SETTINGS
    now = compute_fingerprints(grid)
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            return f"{path}: holds no settings of a comparison; choose another --output", {}
        before = held.pop(_DIGESTS, {})
        changed = config_differences(upgrade_settings(held), settings)
        if changed:
            said = f"holds a comparison under other conditions ({', '.join(changed)}); choose another --output"
            return f"{path}: {said}", {}
        return find_changed_input(grid, before, now), {**held, _DIGESTS: before | now}
    if output.exists() and any(output.iterdir()):
        return f"{output} is not empty and holds no comparison: choose another --output", {}
    return "", {**settings, _DIGESTS: now}
