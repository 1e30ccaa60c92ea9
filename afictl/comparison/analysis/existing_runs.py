"""Compare runs that exist already: which method and seed each is, and whether they may stand side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from afictl.comparison.analysis.settings_summary import UNEQUAL_PREFIX, describe_settings, differing_settings
from afictl.errors import UserError
from afictl.presets import Preset, parse_preset
from afictl.run_folder import CONFIG, LAST, list_runs_below
from afictl.weights import read_checkpoint

_EVALUATION = (
    "data",
    "input.test_size",
    "input.max_size",
    "detector.score_threshold",
    "detector.nms_threshold",
    "detector.max_detections",
)
"""What decides how a detector is measured."""


@dataclass(frozen=True)
class FinishedRun:
    """A run of ``finetune`` and what it records."""

    folder: Path
    preset: Preset
    config: Mapping[str, Any]
    """As ``config.yaml``, its preset complete; with ``precision``."""
    metadata: Mapping[str, Any]
    """Of its last checkpoint: ``classes``, ``category_ids``, ``metrics``."""
    method: str | None = None
    """What the user calls its method."""

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])

    @property
    def source(self) -> str:
        """Where its interpolator comes from: a kind, a run or a file."""
        return str(self.config["interpolator"] or self.preset.interpolator.kind)


def read_run(path: Path, method: str | None = None) -> FinishedRun:
    """The run in a folder, or the one that a file belongs to; ``method`` is what the user calls its method.

    Raises:
        UserError: no run of ``finetune``, or one that has not come to its end.
    """
    folder = path.parent if path.is_file() else path
    file = folder / CONFIG
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        known = dict(config) if config["command"] == "finetune" else {}
        hardware = known["hardware"]["precision"]
    except OSError:
        raise UserError(f"--runs {path}: no run folder; there is no {file}{list_runs_below(folder)}") from None
    except (KeyError, TypeError, ValueError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(
            f"--runs {path}: {CONFIG} is not that of a run of 'afictl finetune' or 'afictl compare'"
        ) from None
    preset = parse_preset(known["preset"], source=str(file))
    if not (folder / LAST).is_file():
        raise UserError(f"--runs {path}: the run has no {LAST}; let it end first")
    metadata = read_checkpoint(folder / LAST).metadata
    step = metadata.get("step")
    if step != preset.train.steps:
        raise UserError(
            f"--runs {path}: the run has come to step {step} of {preset.train.steps}; continue it with --resume first"
        )
    config = known | {"preset": preset.model_dump(mode="json"), "precision": hardware}
    return FinishedRun(folder, preset, config, metadata, method)


def group_by_method(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """The runs of each method, by its name, in the order of their seeds.

    A method is what the user calls so, or else a kind of interpolator with its options, or the run or file that it
    comes from. The latter are called as their kind; those of one kind also as the run or file.

    Raises:
        UserError: two runs of one method and seed, or two interpolators that the user calls the same.
    """
    groups: dict[tuple[str | None, str], list[FinishedRun]] = {}
    for run in runs:
        known = (
            "" if run.method is not None else json.dumps([run.source, run.preset.interpolator.options], sort_keys=True)
        )
        groups.setdefault((run.method, known), []).append(run)
    kinds = [group[0].preset.interpolator.kind for (method, _), group in groups.items() if method is None]
    taken = {method for method, _ in groups}
    named: dict[str, list[FinishedRun]] = {}
    for (method, _), group in groups.items():
        kind, source = group[0].preset.interpolator.kind, group[0].source
        name = method or (kind if kinds.count(kind) == 1 or source == kind else f"{kind}-{Path(source).stem}")
        while method is None and name in taken | named.keys():
            name += "-2"
        named[name] = _by_seed(name, group)
    return named


def _by_seed(name: str, runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    ordered = sorted(runs, key=lambda run: run.seed)
    for first, second in pairwise(ordered):
        both = f"--runs: {first.folder} and {second.folder} are both {name}"
        if first.preset.interpolator != second.preset.interpolator:
            raise UserError(f"{both}, but of different interpolators; give them different names")
        if first.seed == second.seed:
            raise UserError(f"{both} with seed {first.seed}; tell them apart with NAME={second.folder}")
    return ordered


def compare_settings(
    methods: Mapping[str, Sequence[FinishedRun]], data: Path | None = None
) -> tuple[dict[str, str], list[str]]:
    """The conditions of the runs in words, and the keys of those that are not the same for all.

    Args:
        methods: the runs.
        data: on which all are measured, wherever each run had its data; None takes the one that they share.

    Raises:
        UserError: the runs were not measured alike: other data, or other settings of the evaluation.
    """
    configs = {f"{name} seed {run.seed}": run.config for name, runs in methods.items() for run in runs}
    differing = differing_settings(configs)
    for key in differing:
        if key in _EVALUATION and not (key == "data" and data):
            advice = "; if it is one data set, say with --data where it is now" if key == "data" else ""
            raise UserError(f"--runs: cannot be compared, as {key} is not the same ({differing[key]}){advice}")
    words: dict[str, dict[str, None]] = {}
    for runs in methods.values():
        for run in runs:
            for name, value in describe_settings(run.preset, run.config).items():
                words.setdefault(name, {})[value] = None
    not_the_same = {f"{UNEQUAL_PREFIX}, {key}": values for key, values in differing.items()}
    return {**not_the_same, **{name: " / ".join(values) for name, values in words.items()}}, list(differing)
