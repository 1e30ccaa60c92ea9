"""The whole comparison: runs of a grid or runs that exist, their prices, what follows, and the files of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.analysis.comparison_files import write_comparison_tables
from afictl.comparison.analysis.existing_runs import compare_settings, group_by_method, read_run
from afictl.comparison.analysis.run_accuracy import evaluate_run
from afictl.comparison.analysis.settings_summary import describe_settings
from afictl.comparison.analysis.summary import MeasuredMethod, build_comparison, choose_baseline
from afictl.comparison.cost.cost_list import costs_of_runs, describe_measurement
from afictl.comparison.experiment.comparison_run import is_finished, read_finished_run
from afictl.comparison.experiment.execution import experiment_record, train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings, Method
from afictl.comparison.report import write_report
from afictl.comparison.results import Comparison
from afictl.data import load_coco
from afictl.errors import UserError
from afictl.files import remove_temporary_files
from afictl.presets import Preset
from afictl.progress import ProgressDisplay, no_progress
from afictl.run_folder import COMPARISON, COMPARISON_SETTINGS, REPORT


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison ends with."""

    comparison: Comparison | None
    """None where no cell is finished, and on other processes than the first."""
    failures: dict[str, str] = field(default_factory=dict)
    """What went wrong, by the name of the cell."""


def compare(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    methods: Sequence[Method],
    output: Path,
    *,
    seeds: Sequence[int] = (0,),
    baseline: str | None = None,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    spread: int = 1,
    progress: ProgressDisplay = no_progress,
) -> ComparisonOutcome:
    """Fine-tune ``preset`` once for each interpolator and seed, and measure accuracy and price.

    Within a seed everything but the interpolator is the same: start weights of all other parts, data order,
    augmentation, schedule and evaluation. A cell that is finished in ``output`` is not trained again, a stopped one
    goes on; methods and seeds may be added later.

    Writes a run for each cell, ``output/NAME/seedK``, ``comparison.json``, ``comparison.csv``,
    ``runs.csv`` and ``report.html``.

    Args:
        fabric: where to train and to measure.
        preset: the detector and its recipe.
        data: the data set.
        methods: the interpolators.
        output: folder; absent, empty, or of a comparison under the same conditions.
        seeds: one run of each contender for each.
        baseline: the name of the contender that the others are compared with; ``nearest``, or else the first.
        weights: a detector to start from.
        backbone_weights: a local file instead of the ImageNet download.
        spread: how many cells to train at once, each in a process of its own on one device.
        progress: shows how far the measuring of prices has come.

    Raises:
        UserError: data, weights, output or an interpolator that do not fit; before anything is trained.
    """
    choose_baseline([contender.name for contender in methods], baseline)
    grid = ExperimentSettings(preset, data, output, tuple(methods), tuple(seeds), weights, backbone_weights)
    failures = train_experiment(fabric, grid, spread)
    if not fabric.is_global_zero:
        return ComparisonOutcome(None, failures)
    cells = {
        each: tuple(read_finished_run(f) for s in seeds if is_finished(f := grid.folder(each, s))) for each in methods
    }
    finished = {each: found for each, found in cells.items() if found}
    if not finished:
        return ComparisonOutcome(None, failures)
    index = load_coco(data, "val")
    folders = {each.name: found[0].folder for each, found in finished.items()}
    prices, basis = costs_of_runs(fabric, folders, index, progress, earlier=output / COMPARISON)
    entries = [MeasuredMethod(each.name, each.source, found, prices[each.name]) for each, found in finished.items()]
    conditions = describe_settings(preset, experiment_record(fabric, grid)) | {"prices": describe_measurement(fabric)}
    comparison = replace(build_comparison(preset.name, index, entries, conditions, baseline), cost_basis=basis)
    write_comparison_folder(comparison, output)
    return ComparisonOutcome(comparison, failures)


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
    """Compare runs that exist, and write ``comparison.json``, ``comparison.csv``, ``runs.csv`` and ``report.html``.

    They are grouped into methods by their interpolator, and paired by their seed. Conditions that are not the same for
    all are named in the conditions and in every verdict.

    Args:
        fabric: where to measure, on one process.
        folders: runs of ``finetune`` or of a grid.
        output: folder; absent, empty, or of another comparison of runs.
        names: folder -> what its method is called, for runs whose interpolators do not tell them apart.
        data: where the data set of the runs is now, also where they had it in different places.
        baseline: as for ``compare``.
        progress: shows how far the measuring has come.

    Raises:
        UserError: no finished run, two runs of one method and seed, one name for two interpolators, or runs with
            other data or another evaluation.
    """
    require_comparison_folder(output)
    methods = group_by_method([read_run(folder, (names or {}).get(folder)) for folder in folders])
    choose_baseline(list(methods), baseline)
    conditions, differing = compare_settings(methods, data)
    conditions["prices"] = describe_measurement(fabric)
    first = next(iter(methods.values()))[0]
    index = load_coco(data or Path(first.config["data"]), "val")
    cells = {name: tuple(evaluate_run(fabric, run, index, progress) for run in runs) for name, runs in methods.items()}
    firsts = {name: runs[0].folder for name, runs in methods.items()}
    prices, basis = costs_of_runs(fabric, firsts, index, progress, earlier=output / COMPARISON)
    entries = [MeasuredMethod(name, runs[0].source, cells[name], prices[name]) for name, runs in methods.items()]
    presets = dict.fromkeys(run.preset.name for runs in methods.values() for run in runs)
    concluded = build_comparison(" / ".join(presets), index, entries, conditions, baseline, differing)
    comparison = replace(concluded, cost_basis=basis)
    write_comparison_folder(comparison, output)
    return comparison


def require_comparison_folder(output: Path) -> None:
    """Refuse a folder that holds a grid, or anything else than what ``write_comparison_folder`` writes.

    Raises:
        UserError: it does.
    """
    table = output / COMPARISON
    ours = table.is_file() and table.read_bytes()[:1] == b"{"  # that of 'afictl eval' is a list
    if (output / COMPARISON_SETTINGS).exists() or (not ours and output.exists() and any(output.iterdir())):
        raise UserError(
            f"{output}: holds something else than a comparison of runs or a list of prices; choose another --output"
        )


def write_comparison_folder(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv``, ``runs.csv`` and ``report.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    write_comparison_tables(comparison, folder)
    write_report(comparison, folder / REPORT)
