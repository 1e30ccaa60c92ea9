"""The whole comparison: runs of a grid or runs that exist, their prices, what follows, and the files of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.cells import is_finished, read_cell
from afictl.comparison.conditions import conditions_in_words
from afictl.comparison.files import write_comparison
from afictl.comparison.grid import describe_grid, train_grid
from afictl.comparison.model import Comparison
from afictl.comparison.price_list import how_measured, prices_of_runs
from afictl.comparison.report import write_report
from afictl.comparison.rescoring import measure_run
from afictl.comparison.results import Entry, choose_baseline, conclude
from afictl.comparison.runs import conditions_of, methods_of, read_run
from afictl.comparison.specification import Contender, Grid
from afictl.data import load_coco
from afictl.errors import UserError
from afictl.files import remove_temporary_files
from afictl.presets import Preset
from afictl.progress import ProgressDisplay, no_progress
from afictl.run_folder import COMPARISON, COMPARISON_SETTINGS, REPORT


@dataclass(frozen=True)
class Answer:
    """What a comparison ends with."""

    comparison: Comparison | None
    """None where no cell is finished, and on other processes than the first."""
    failures: dict[str, str] = field(default_factory=dict)
    """What went wrong, by the name of the cell."""


def compare(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    contenders: Sequence[Contender],
    output: Path,
    *,
    seeds: Sequence[int] = (0,),
    baseline: str | None = None,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    spread: int = 1,
    meter: ProgressDisplay = no_progress,
) -> Answer:
    """Fine-tune ``preset`` once for each interpolator and seed, and measure accuracy and price.

    Within a seed everything but the interpolator is the same: start weights of all other parts, data order,
    augmentation, schedule and evaluation. A cell that is finished in ``output`` is not trained again, a stopped one
    goes on; contenders and seeds may be added later.

    Writes a run for each cell, ``output/NAME/seedK``, ``comparison.json``, ``comparison.csv``,
    ``runs.csv`` and ``report.html``.

    Args:
        fabric: where to train and to measure.
        preset: the detector and its recipe.
        data: the data set.
        contenders: the interpolators.
        output: folder; absent, empty, or of a comparison under the same conditions.
        seeds: one run of each contender for each.
        baseline: the name of the contender that the others are compared with; ``nearest``, or else the first.
        weights: a detector to start from.
        backbone_weights: a local file instead of the ImageNet download.
        spread: how many cells to train at once, each in a process of its own on one device.
        meter: shows how far the measuring of prices has come.

    Raises:
        UserError: data, weights, output or an interpolator that do not fit; before anything is trained.
    """
    choose_baseline([contender.name for contender in contenders], baseline)
    grid = Grid(preset, data, output, tuple(contenders), tuple(seeds), weights, backbone_weights)
    failures = train_grid(fabric, grid, spread)
    if not fabric.is_global_zero:
        return Answer(None, failures)
    cells = {each: tuple(read_cell(f) for s in seeds if is_finished(f := grid.folder(each, s))) for each in contenders}
    finished = {each: found for each, found in cells.items() if found}
    if not finished:
        return Answer(None, failures)
    index = load_coco(data, "val")
    folders = {each.name: found[0].folder for each, found in finished.items()}
    prices, basis = prices_of_runs(fabric, folders, index, meter, earlier=output / COMPARISON)
    entries = [Entry(each.name, each.source, found, prices[each.name]) for each, found in finished.items()]
    conditions = conditions_in_words(preset, describe_grid(fabric, grid)) | {"prices": how_measured(fabric)}
    comparison = replace(conclude(preset.name, index, entries, conditions, baseline), price_basis=basis)
    write_answer(comparison, output)
    return Answer(comparison, failures)


def compare_runs(
    fabric: Fabric,
    folders: Sequence[Path],
    output: Path,
    *,
    names: Mapping[Path, str] | None = None,
    data: Path | None = None,
    baseline: str | None = None,
    meter: ProgressDisplay = no_progress,
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
        meter: shows how far the measuring has come.

    Raises:
        UserError: no finished run, two runs of one method and seed, one name for two interpolators, or runs with
            other data or another evaluation.
    """
    require_place(output)
    methods = methods_of([read_run(folder, (names or {}).get(folder)) for folder in folders])
    choose_baseline(list(methods), baseline)
    conditions, differing = conditions_of(methods, data)
    conditions["prices"] = how_measured(fabric)
    first = next(iter(methods.values()))[0]
    index = load_coco(data or Path(first.config["data"]), "val")
    cells = {name: tuple(measure_run(fabric, run, index, meter) for run in runs) for name, runs in methods.items()}
    firsts = {name: runs[0].folder for name, runs in methods.items()}
    prices, basis = prices_of_runs(fabric, firsts, index, meter, earlier=output / COMPARISON)
    entries = [Entry(name, runs[0].source, cells[name], prices[name]) for name, runs in methods.items()]
    presets = dict.fromkeys(run.preset.name for runs in methods.values() for run in runs)
    concluded = conclude(" / ".join(presets), index, entries, conditions, baseline, differing)
    comparison = replace(concluded, price_basis=basis)
    write_answer(comparison, output)
    return comparison


def require_place(output: Path) -> None:
    """Refuse a folder that holds a grid, or anything else than what ``write_answer`` writes.

    Raises:
        UserError: it does.
    """
    table = output / COMPARISON
    ours = table.is_file() and table.read_bytes()[:1] == b"{"  # that of 'afictl eval' is a list
    if (output / COMPARISON_SETTINGS).exists() or (not ours and output.exists() and any(output.iterdir())):
        raise UserError(
            f"{output}: holds something else than a comparison of runs or a list of prices; choose another --output"
        )


def write_answer(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv``, ``runs.csv`` and ``report.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    write_comparison(comparison, folder)
    write_report(comparison, folder / REPORT)
