"""Existing runs of a comparison: reading, grouping into methods, and comparison of their settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from afictl.comparison.analysis.origins import describe_origin
from afictl.comparison.analysis.settings_summary import TRAINED_STEPS, describe_settings, mark_unequal, unequal_settings
from afictl.comparison.records import read_experiment
from afictl.errors import UserError
from afictl.presets import Preset, parse_preset
from afictl.run_folder import COMPARISON_SETTINGS, CONFIG, LAST, list_runs_below
from afictl.run_records import DetectorDescription, read_config, read_description
from afictl.weights import read_checkpoint

_EVALUATION_KEYS = (
    "data",
    "input.test_size",
    "input.max_size",
    "input.square",
    "detector.score_threshold",
    "detector.nms_threshold",
    "detector.max_detections",
)
"""Evaluation settings, which must be equal for all runs."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of ``finetune``."""

    folder: Path
    preset: Preset
    config: Mapping[str, Any]
    """Content of ``config.yaml`` with all keys of the preset, and ``precision``."""
    description: DetectorDescription
    """Of the last weights."""
    method: str | None = None
    """Method name from the command line."""

    @property
    def data(self) -> Path:
        """Folder of the dataset."""
        return Path(self.config["data"])

    @property
    def seed(self) -> int:
        """Random seed of the training."""
        return int(self.config["seed"])

    @property
    def source(self) -> str:
        """Source of the interpolator: kind, run or file."""
        return str(self.config["interpolator"] or self.preset.interpolator.kind)

    def origin(self, folder: Path) -> str:
        """See ``describe_origin``; ``folder`` is that of the comparison."""
        kind = self.preset.interpolator.kind
        source = self.config["interpolator"]
        trained = source if source and source != kind else None
        return describe_origin(kind, trained, None if source else self.config["weights"], folder)


def read_run(path: Path, method: str | None = None) -> FinishedRun:
    """Read a finished run.

    Args:
        path: run folder, or a file in it.
        method: method name from the command line.

    Raises:
        UserError: not a run of ``finetune``, or an unfinished one.
    """
    folder = path.parent if path.is_file() else path
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"--runs {path}: not a run folder, as there is no {file}{list_runs_below(folder)}")
    config = read_config(file)
    if config.command != "finetune" or not config.data:
        raise UserError(f"--runs {path}: not a run of 'afictl finetune' or 'afictl compare', as {CONFIG} shows")
    preset = parse_preset(config.preset, source=str(file))
    if not (folder / LAST).is_file():
        raise UserError(f"--runs {path}: the run has no {LAST}; finish its training first")
    description = read_description(read_checkpoint(folder / LAST).metadata, folder / LAST)
    step = description.step
    if step != preset.train.steps and not description.ended_early:
        raise UserError(
            f"--runs {path}: the run is at step {step} of {preset.train.steps}; continue it with --resume first"
        )
    values = {
        "preset": preset.model_dump(mode="json"),
        "precision": config.hardware.precision,
        TRAINED_STEPS: description.step,
    }
    return FinishedRun(folder, preset, config.model_dump() | values, description, method)


def group_by_method(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Group runs into methods: by method name, each ordered by seed.

    Runs with a name from the command line form a method of that name. The others are grouped by source and options of
    the interpolator and named by its kind; if several methods have the same kind, also by run or file.

    Raises:
        UserError: two runs of one method and seed, or two interpolators with one name.
    """
    groups: dict[tuple[str | None, str], list[FinishedRun]] = {}
    for run in runs:
        interpolator = json.dumps([run.source, run.preset.interpolator.options], sort_keys=True)
        groups.setdefault((run.method, "" if run.method is not None else interpolator), []).append(run)
    kinds = [group[0].preset.interpolator.kind for (method, _), group in groups.items() if method is None]
    requested = {method for method, _ in groups}
    methods: dict[str, list[FinishedRun]] = {}
    for (method, _), group in groups.items():
        kind, source = group[0].preset.interpolator.kind, group[0].source
        name = method or (kind if kinds.count(kind) == 1 or source == kind else f"{kind}-{Path(source).stem}")
        while method is None and name in requested | methods.keys():
            name += "-2"
        methods[name] = _order_by_seed(name, group)
    return methods


def compare_settings(
    methods: Mapping[str, Sequence[FinishedRun]], data: Path | None = None
) -> tuple[dict[str, str], list[str]]:
    """Settings of all runs as text, and the keys of those that are not equal.

    Args:
        methods: runs by method name.
        data: folder of the dataset, if the runs recorded other paths.

    Raises:
        UserError: runs with different data or evaluation settings.
    """
    configs = {f"{name} seed {run.seed}": run.config for name, runs in methods.items() for run in runs}
    unequal = unequal_settings(configs)
    tuned = {key: unequal.pop(key) for key in _tuned_keys(methods) if key in unequal}
    for key in unequal:
        if key in _EVALUATION_KEYS and not (key == "data" and data):
            advice = "; if it is the same dataset, give its present folder with --data" if key == "data" else ""
            raise UserError(f"--runs: not comparable, as {key} is not equal ({unequal[key]}){advice}")
    values: dict[str, dict[str, None]] = {}
    for runs in methods.values():
        for run in runs:
            for name, value in describe_settings(run.preset, run.config).items():
                values.setdefault(name, {})[value] = None
    texts = {name: " / ".join(texts) for name, texts in values.items()}
    return {**mark_unequal(unequal), **texts, **{f"tuned, {key}": text for key, text in tuned.items()}}, list(unequal)


def _tuned_keys(methods: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """Keys of which the comparisons of all runs chose a value for each method, from the same values."""
    grids = [_tuning_of(run.folder) for runs in methods.values() for run in runs]
    return list(grids[0]) if all(grid == grids[0] for grid in grids) else []


def _tuning_of(folder: Path) -> dict[str, list[Any]]:
    """``ExperimentRecord.tune`` of the comparison that a run is part of; empty without one."""
    comparison = folder.resolve().parent.parent
    with suppress(UserError):  # the file is none of the inputs
        return read_experiment(comparison).tune if (comparison / COMPARISON_SETTINGS).is_file() else {}
    return {}


def _shape(run: FinishedRun) -> tuple[str, dict[str, Any]]:
    config = run.preset.interpolator
    return config.kind, config.options


def _order_by_seed(name: str, runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    ordered = sorted(runs, key=lambda run: run.seed)
    for first, second in pairwise(ordered):
        both = f"--runs: {first.folder} and {second.folder} are both of {name}"
        if _shape(first) != _shape(second):
            raise UserError(f"{both}, but have different interpolators; give them different names")
        if first.seed == second.seed:
            raise UserError(f"{both} with seed {first.seed}; name one of them with NAME={second.folder}")
    return ordered
