"""Comparisons from start to end: train or read the runs, measure costs, summarize, write tables and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.analysis.comparison_files import write_comparison_tables
from afictl.comparison.analysis.existing_runs import compare_settings, group_by_method, read_run
from afictl.comparison.analysis.origins import method_result
from afictl.comparison.analysis.run_accuracy import evaluate_run
from afictl.comparison.analysis.settings_summary import (
    ADDED_SEEDS,
    TRAINED_STEPS,
    describe_settings,
    mark_unequal,
    unequal_settings,
)
from afictl.comparison.analysis.summary import build_comparison, choose_baseline
from afictl.comparison.cost.cost_list import costs_of_runs, describe_measurement
from afictl.comparison.experiment.comparison_run import is_finished, read_finished_run
from afictl.comparison.experiment.execution import TrainRuns, train_experiment
from afictl.comparison.experiment.fingerprints import require_recorded_content
from afictl.comparison.experiment.preconditions import experiment_record, keep_former_values
from afictl.comparison.experiment.specification import ExperimentSettings, Method, TuningGrid
from afictl.comparison.experiment.tuning import tune
from afictl.comparison.report import write_report
from afictl.comparison.results import Comparison, MethodResult, Tuning
from afictl.comparison.seed_counts import WidthRule, describe_rule, require_usable, train_until_narrow
from afictl.data import load_dataset
from afictl.errors import UserError
from afictl.files import remove_temporary_files
from afictl.folder_lock import locked_folder
from afictl.json_files import first_character
from afictl.presets import Preset
from afictl.progress import ProgressDisplay, no_progress
from afictl.run_folder import COMPARISON, COMPARISON_SETTINGS, CONFIG, REPORT, is_vacant
from afictl.run_records import last_step, read_config


@dataclass(frozen=True)
class ComparisonOutcome:
    """Result of ``compare``."""

    comparison: Comparison | None
    """None if no run is finished, and on all ranks but 0."""
    failures: dict[str, str] = field(default_factory=dict)
    """Error by run."""


def compare(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    methods: Sequence[Method],
    output: Path,
    *,
    seeds: Sequence[int] = (0,),
    until: float | None = None,
    max_seeds: int = 20,
    baseline: str | None = None,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    averaged: bool | None = None,
    tuning: TuningGrid | None = None,
    train_runs: TrainRuns | None = None,
    progress: ProgressDisplay = no_progress,
) -> ComparisonOutcome:
    """Fine-tune ``preset`` once for each method and seed, and measure accuracy and cost.

    For each seed everything but the interpolator is equal: initial weights of all other parts, data order,
    augmentation, schedule and evaluation. Finished runs in ``output`` are not repeated, interrupted ones are continued;
    methods and seeds may be added later. Several processes may do this at once for one ``output``: a run is trained by
    one of them, and each waits for all runs and writes the comparison.

    Writes the runs ``output/NAME/seedK``, ``comparison.json``, ``comparison.csv``, ``runs.csv`` and ``report.html``.

    Args:
        fabric: devices for training and measurement.
        preset: detector and training recipe.
        data: folder of the dataset.
        methods: interpolators to compare.
        output: folder; absent, empty, or of a comparison with the same settings.
        seeds: each method is trained once for each seed.
        until: half-width in points of box AP; the seeds that follow the last of ``seeds`` are added to each method, and
            to the baseline, until the 95 % interval of its difference is that narrow. None: no seeds are added.
        max_seeds: largest number of seeds of a method with ``until``.
        baseline: method that the others are compared with; None: ``nearest``, or else the first.
        weights: detector to start from.
        backbone_weights: backbone file to load instead of the ImageNet weights of timm.
        averaged: as in ``InitialWeights``.
        tuning: values of a setting, of which one is chosen for each method, see ``tune``.
        train_runs: as in ``train_experiment``.
        progress: display for the measurement of costs.

    Raises:
        UserError: invalid or incompatible data, weights, output or interpolator, or ``until`` with one method or seed;
            raised before training. Held-out annotations that have changed
            since; finished runs are kept.
    """
    chosen_baseline = choose_baseline([method.name for method in methods], baseline)
    sources = (weights, backbone_weights, averaged)
    rule = None if until is None else WidthRule(chosen_baseline, until, len(seeds), max_seeds)
    if rule:
        require_usable(rule, methods)
        seeds = (*seeds, *range(max(seeds) + 1, max(seeds) + 1 + max_seeds - len(seeds)))
    preset = keep_former_values(fabric, preset, output)
    settings = ExperimentSettings(preset, data, output, tuple(methods), tuple(seeds), *sources, tuning=tuning)
    tunings: dict[str, Tuning] = {}
    failures: dict[str, str] = {}
    if tuning:
        settings, tunings, failures = tune(fabric, settings, train_runs)
    if rule and not _is_applicable(rule, settings):
        settings, rule = replace(settings, seeds=settings.seeds[: rule.initial_seeds]), None
    settings, failed = _train(fabric, settings, rule, train_runs)
    failures |= failed
    if not fabric.is_global_zero:
        return ComparisonOutcome(None, failures)
    with locked_folder(output, wait=True):
        return ComparisonOutcome(_summarize(fabric, settings, tunings, baseline, rule, progress), failures)


def _is_applicable(rule: WidthRule, settings: ExperimentSettings) -> bool:
    """Whether the baseline and another method are left after a tuning in which methods may fail."""
    names = [method.name for method in settings.methods]
    return rule.baseline in names and len(names) > 1


def _train(
    fabric: Fabric, settings: ExperimentSettings, rule: WidthRule | None, train_runs: TrainRuns | None
) -> tuple[ExperimentSettings, dict[str, str]]:
    """Train all runs, or those that the rule asks for; the experiment with its seeds, and the failures by run."""
    if not settings.methods:
        return settings, {}
    if rule:
        return train_until_narrow(fabric, settings, rule, train_runs)
    return settings, train_experiment(fabric, settings, train_runs)


def _summarize(
    fabric: Fabric,
    settings: ExperimentSettings,
    tunings: Mapping[str, Tuning],
    baseline: str | None,
    rule: WidthRule | None,
    progress: ProgressDisplay,
) -> Comparison | None:
    """Measure the costs of the methods with finished runs and write the comparison; None without finished runs."""
    methods, output, preset = settings.methods, settings.output, settings.preset
    folders = [(run.method, run.folder) for run in settings.runs() if is_finished(run.folder)]
    runs = {method: tuple(read_finished_run(f) for name, f in folders if name == method.name) for method in methods}
    finished_methods = [method for method in methods if runs[method]]
    if not finished_methods:
        return None
    dataset = load_dataset(settings.data, "val")
    require_recorded_content(settings.output, dataset)
    first_folders = {method.name: runs[method][0].folder for method in finished_methods}
    costs, basis = costs_of_runs(fabric, first_folders, dataset, progress, earlier=output / COMPARISON)
    results = [
        replace(method_result(method, output, costs[method.name], runs[method]), tuning=tunings.get(method.name))
        for method in finished_methods
    ]
    conditions = {str(run): _conditions(run.folder) for run in settings.runs() if is_finished(run.folder)}
    unequal = unequal_settings(conditions)
    texts = mark_unequal(unequal) | describe_settings(preset, experiment_record(fabric, settings))
    if rule:
        texts[ADDED_SEEDS] = describe_rule(settings, rule)
    texts["cost"] = describe_measurement(fabric)
    comparison = build_comparison(preset.name, dataset, results, texts, baseline, list(unequal), cost_basis=basis)
    write_comparison_folder(comparison, output)
    return comparison


def _conditions(folder: Path) -> dict[str, object]:
    """Hardware and number of steps of a run, whose other settings are those of its comparison."""
    config = folder / CONFIG
    hardware = {"hardware": read_config(config).hardware.model_dump()} if config.is_file() else {}
    return {**hardware, TRAINED_STEPS: last_step(folder)}


def compare_runs(
    fabric: Fabric,
    folders: Sequence[Path],
    output: Path,
    *,
    names: Mapping[Path, str] | None = None,
    data: Path | None = None,
    baseline: str | None = None,
    progress: ProgressDisplay = no_progress,
) -> Comparison:
    """Compare existing runs, and write ``comparison.json``, ``comparison.csv``, ``runs.csv`` and ``report.html``.

    Runs are grouped into methods by interpolator and paired by seed. Settings that are not equal for all runs are
    listed in the settings and in every verdict.

    Args:
        fabric: device to measure on, with one process.
        folders: runs of ``finetune`` or ``compare``.
        output: folder; absent, empty, or of a comparison of runs.
        names: method name by folder, for runs that differ in something else than the interpolator.
        data: present folder of the dataset, if the runs recorded other paths.
        baseline: as in ``compare``.
        progress: display for detection and measurement.

    Raises:
        UserError: an unfinished run, two runs of one method and seed, one name for two interpolators, or runs with
            different data or evaluation settings.
    """
    with locked_folder(output):
        return _compare_runs(fabric, folders, output, names or {}, data, baseline, progress)


def _compare_runs(
    fabric: Fabric,
    folders: Sequence[Path],
    output: Path,
    names: Mapping[Path, str],
    data: Path | None,
    baseline: str | None,
    progress: ProgressDisplay,
) -> Comparison:
    require_comparison_folder(output)
    methods = group_by_method([read_run(folder, names.get(folder)) for folder in folders])
    choose_baseline(list(methods), baseline)
    texts, unequal_keys = compare_settings(methods, data)
    texts["cost"] = describe_measurement(fabric)
    first_runs = {name: runs[0] for name, runs in methods.items()}
    dataset = load_dataset(data or next(iter(first_runs.values())).data, "val")
    runs = {name: tuple(evaluate_run(fabric, run, dataset, progress) for run in methods[name]) for name in methods}
    first_folders = {name: run.folder for name, run in first_runs.items()}
    costs, basis = costs_of_runs(fabric, first_folders, dataset, progress, earlier=output / COMPARISON)
    results = [
        MethodResult(name, run.source, runs[name], costs[name], origin=run.origin(output))
        for name, run in first_runs.items()
    ]
    presets = " / ".join(dict.fromkeys(run.preset.name for group in methods.values() for run in group))
    comparison = build_comparison(presets, dataset, results, texts, baseline, unequal_keys, cost_basis=basis)
    write_comparison_folder(comparison, output)
    return comparison


def require_comparison_folder(output: Path) -> None:
    """Check that ``output`` is absent, empty, or has only files of ``write_comparison_folder``.

    Raises:
        UserError: it has other content, such as runs of ``compare``.
    """
    table = output / COMPARISON
    is_comparison = table.is_file() and first_character(table) == "{"  # that of 'afictl eval' is a list
    if (output / COMPARISON_SETTINGS).exists() or (not is_comparison and not is_vacant(output)):
        raise UserError(
            f"{output}: has other content than a comparison of runs or a list of costs; choose another --output"
        )


def write_comparison_folder(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv``, ``runs.csv`` and ``report.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    write_comparison_tables(comparison, folder)
    write_report(comparison, folder / REPORT)
