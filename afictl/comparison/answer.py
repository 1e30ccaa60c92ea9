"""The whole comparison: train the grid, measure prices, summarise, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.cells import is_finished, read_cell
from afictl.comparison.files import write_comparison
from afictl.comparison.grid import train_grid
from afictl.comparison.model import Comparison
from afictl.comparison.price import measure_prices
from afictl.comparison.results import Entry, choose_baseline, summarize
from afictl.comparison.specification import Contender, Grid
from afictl.data import CocoIndex, load_coco
from afictl.detectors import Detector
from afictl.presets import Preset
from afictl.training.run import LAST
from afictl.weights import load_detector


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
) -> Answer:
    """Fine-tune ``preset`` once for each interpolator and seed, and measure accuracy and price.

    Within a seed everything but the interpolator is the same: start weights of all other parts, data order,
    augmentation, schedule and evaluation. A cell that is finished in ``output`` is not trained again, a stopped one
    goes on; contenders and seeds may be added later.

    Writes a run for each cell, ``output/NAME/seedK``, and ``comparison.json``, ``comparison.csv`` and ``runs.csv``.

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

    Raises:
        UserError: data, weights, output or an interpolator that do not fit; before anything is trained.
    """
    names = [contender.name for contender in contenders]
    choose_baseline(names, baseline)
    grid = Grid(preset, data, output, tuple(contenders), tuple(seeds), weights, backbone_weights)
    failures = train_grid(fabric, grid, spread)
    if not fabric.is_global_zero:
        return Answer(None, failures)
    cells = {each: tuple(read_cell(f) for s in seeds if is_finished(f := grid.folder(each, s))) for each in contenders}
    finished = {each: found for each, found in cells.items() if found}
    if not finished:
        return Answer(None, failures)
    index = load_coco(data, "val")
    prices = measure_prices(_detectors(fabric, {each.name: found[0].folder for each, found in finished.items()}), index)
    entries = [Entry(each.name, each.source, found, prices[each.name]) for each, found in finished.items()]
    present = [entry.name for entry in entries]
    chosen = choose_baseline(present, baseline if baseline in present else None)
    conditions = _conditions(grid, index)
    methods = summarize(entries, chosen)
    comparison = Comparison(preset.name, index.annotation_file, index.image_dir, chosen, conditions, methods)
    write_comparison(comparison, output)
    return Answer(comparison, failures)


def _detectors(fabric: Fabric, runs: dict[str, Path]) -> dict[str, Detector]:
    """The trained detectors of ``runs``, in eval mode on the device."""
    detectors = {name: load_detector(folder / LAST).detector.eval() for name, folder in runs.items()}
    for detector in detectors.values():
        fabric.to_device(detector)
    return detectors


def _conditions(grid: Grid, index: CocoIndex) -> dict[str, str]:
    recipe = grid.preset.train
    return {
        "schedule": f"{recipe.steps} steps of {recipe.batch_size} images",
        "held-out images": str(len(index)),
    }
