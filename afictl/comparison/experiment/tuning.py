"""Choice of a setting for each method of an experiment, on a part of its training images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from lightning_fabric import Fabric

from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.experiment.execution import TrainRuns, train_experiment
from afictl.comparison.experiment.preconditions import check_experiment
from afictl.comparison.experiment.specification import TUNING, ExperimentSettings, RunSpecification, TuningGrid
from afictl.comparison.records import read_experiment, read_result
from afictl.comparison.results import TunedValue, Tuning
from afictl.data.subset import split_training_images
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, did_you_mean, one_line
from afictl.folder_lock import locked_folder
from afictl.presets import Preset, parse_preset
from afictl.regular_files import read_bounded
from afictl.run_folder import COMPARISON_SETTINGS, CONFIG, DIVERGED
from afictl.yaml_files import parse_yaml

TUNING_SEED = 1_000_000
HELD_OUT_FRACTION = 0.2
"""Part of the training images on which the values are compared."""
_SECTION = "train"
_MAX_REASON_BYTES = 2**16
_EQUAL_KEYS = ("steps", "batch_size", "accumulate", "patience", "eval_every", "checkpoint_every")
"""Keys of the recipe that all methods share: cost, and intervals without effect on the result."""


def parse_tuning(text: str, preset: Preset) -> TuningGrid:
    """Parse ``train.lr=0.001,0.003``, a key of the recipe of fine-tuning with values for it.

    Raises:
        UserError: another key, a value that the key cannot have, fewer than two values, or one given twice.
    """
    key, separator, values = (part.strip() for part in text.partition("="))
    section, _, name = key.partition(".")
    keys = [f"{_SECTION}.{field}" for field in type(preset.train).model_fields if field not in _EQUAL_KEYS]
    if not separator or not values:
        raise UserError(f"--tune {text}: write KEY=VALUE,VALUE,..., for example train.lr=0.001,0.003")
    if section == _SECTION and name in _EQUAL_KEYS:
        raise UserError(f"--tune {key}: is the same for all methods, or nothing is compared; set it with --set")
    if key not in keys:
        raise UserError(f"--tune {key}: cannot be tuned{did_you_mean(key, keys)}; the keys are {', '.join(keys)}")
    items = cast(list[object], parse_yaml(f"[{values}]", f"--tune {text}"))
    parsed = tuple(getattr(_with_value(preset, key, item).train, name) for item in items)
    if duplicates := [value for k, value in enumerate(parsed) if value in parsed[:k]]:
        raise UserError(f"--tune {text}: {duplicates[0]} is given twice")
    if len(parsed) < 2:
        raise UserError(f"--tune {text}: give at least two values; a single one is set with --set {text}")
    return TuningGrid(key, parsed)


def tune(
    fabric: Fabric, settings: ExperimentSettings, train_runs: TrainRuns | None = None
) -> tuple[ExperimentSettings, dict[str, Tuning], dict[str, str]]:
    """Choose a value of ``settings.tuning`` for each method.

    Every method is trained with every value and one seed, which is none of the experiment's, on four fifths of the
    training images; the value with the highest box AP on the last fifth is chosen, the first of equal ones. A value
    with which the training diverges is not chosen. The runs lie in ``tuning/KEY=VALUE/NAME`` and are continued and not
    repeated, like those of the experiment.

    Args:
        fabric: as in ``train_experiment``, like ``train_runs``.
        settings: the experiment, with a grid.

    Returns:
        The settings with the chosen value of each method and without those that have none, the tuning by method, and
        the failures: error by run or method.

    Raises:
        UserError: as ``train_experiment``, a seed or method of the experiment that tuning reserves, or too few images.
    """
    grid = settings.tuning
    assert grid is not None
    if TUNING_SEED in settings.seeds:
        raise UserError(f"--tune: seed {TUNING_SEED} is that of the tuning; choose another --seed")
    if TUNING in (method.name for method in settings.methods):
        raise UserError(f"--tune: no method can be called '{TUNING}', the folder of the tuning; write NAME=RUN")
    experiments = {value: _experiment(settings, grid, value) for value in grid.values}
    with locked_folder(settings.output, fabric.global_rank, fabric.world_size, wait=True):
        former = run_on_rank_zero(lambda: _recorded_inputs(settings), fabric.global_rank, fabric.world_size)
        check_experiment(fabric, settings)
        unfinished = {value: _undecided(fabric, experiment) for value, experiment in experiments.items()}
        if any(item.methods for item in unfinished.values()):
            run_on_rank_zero(lambda: _write_data(settings, former), fabric.global_rank, fabric.world_size)
    failures: dict[str, str] = {}
    for value, experiment in unfinished.items():
        if experiment.methods:
            fabric.print(f"\ntuning: {grid.label(value)}")
            failed = train_experiment(fabric, experiment, train_runs)
            failures |= {f"{run} with {grid.label(value)}": reason for run, reason in failed.items()}
    return run_on_rank_zero(
        lambda: _choose(settings, grid, experiments, failures), fabric.global_rank, fabric.world_size
    )


def _with_value(preset: Preset, key: str, value: object) -> Preset:
    """The preset with another value of ``key``."""
    try:
        return parse_preset(preset.model_dump(mode="json"), [f"{key}={json.dumps(value)}"])
    except UserError as error:
        raise UserError(f"--tune {str(error).removeprefix('--set: ')}") from None


def _experiment(settings: ExperimentSettings, grid: TuningGrid, value: object) -> ExperimentSettings:
    """The experiment that trains every method with one value."""
    folder = settings.output / TUNING
    return replace(
        settings,
        preset=_with_value(settings.preset, grid.key, value),
        data=folder / "data",
        output=folder / grid.label(value),
        seeds=(TUNING_SEED,),
        tuning=None,
    )


def _undecided(fabric: Fabric, experiment: ExperimentSettings) -> ExperimentSettings:
    """The experiment of the methods whose run has neither a result nor diverged."""
    decided = {run.method for run in experiment.runs() if is_finished(run.folder) or (run.folder / DIVERGED).is_file()}
    methods = tuple(method for method in experiment.methods if method.name not in decided)
    return replace(experiment, methods=fabric.broadcast(methods))


def _recorded_inputs(settings: ExperimentSettings) -> dict[str, str]:
    """Fingerprints in ``compare.json``; empty for a comparison that has not begun."""
    begun = (settings.output / COMPARISON_SETTINGS).is_file()
    return dict(read_experiment(settings.output).contents) if begun else {}


def _write_data(settings: ExperimentSettings, former: Mapping[str, str]) -> None:
    """Split the training images, unless a run has begun, or another command begins one, with them."""
    folder = settings.output / TUNING
    is_split = (folder / "data").exists() and former == _recorded_inputs(settings)
    if not is_split and not any(folder.glob(f"*/*/seed*/{CONFIG}")):
        split_training_images(settings.data, folder / "data", HELD_OUT_FRACTION)


def _choose(
    settings: ExperimentSettings,
    grid: TuningGrid,
    experiments: Mapping[object, ExperimentSettings],
    failures: Mapping[str, str],
) -> tuple[ExperimentSettings, dict[str, Tuning], dict[str, str]]:
    """The result of ``tune`` from the finished runs."""
    tunings: dict[str, Tuning] = {}
    remaining = dict(failures)
    for method in settings.methods:
        runs = {value: experiments[value].run(method, TUNING_SEED) for value in grid.values}
        scores = tuple(_score(value, run) for value, run in runs.items())
        labels = [f"{run} with {grid.label(value)}" for value, run in runs.items()]
        diverged = [label for label, score in zip(labels, scores, strict=True) if score.failure]
        if all(score.is_decided for score in scores):
            for label in diverged:
                remaining.pop(label, None)
            measured = [score for score in scores if score.ap is not None]
            if measured:
                chosen = max(measured, key=lambda score: score.ap or 0.0).value
                tunings[method.name] = Tuning(grid.key, chosen, scores)
            else:
                reason = scores[0].failure or "the held-out part of the training images has no object"
                remaining[method.name] = f"no value of {grid.key} can be chosen: {reason}"
    presets = {name: _with_value(settings.preset, grid.key, tuning.chosen) for name, tuning in tunings.items()}
    methods = tuple(method for method in settings.methods if method.name in tunings)
    return replace(settings, methods=methods, presets=presets), tunings, remaining


def _score(value: object, run: RunSpecification) -> TunedValue:
    if is_finished(run.folder):
        return TunedValue(value, read_result(run.folder).metrics.get("box/AP"))
    file = run.folder / DIVERGED
    if file.is_file():
        return TunedValue(
            value, None, f"diverged: {one_line(read_bounded(file, _MAX_REASON_BYTES).decode(errors='replace'))}"
        )
    return TunedValue(value, None, is_decided=False)
