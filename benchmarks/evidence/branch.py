"""How far the maps of interpolators are from bilinear ones: ``python -m benchmarks.evidence.branch SETTING TABLE``.

AFI is bilinear interpolation plus a learned branch. For the methods of a table it prints the root mean square of what
an interpolator adds to the bilinear enlargement of its input, divided by that of the bilinear enlargement, over all
enlargements of the neck on validation images: in the guide, before fine-tuning, and in the fine-tuned runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from torch.nn import functional as F

from afictl.data import Dataset, eval_batches, load_dataset
from afictl.detectors import Detector
from afictl.detectors.upsampling_calls import pyramid_and_calls
from afictl.weights import load_detector, load_interpolator
from benchmarks.evidence.commands import Paths
from benchmarks.evidence.methods import PRETRAINED, TABLES
from benchmarks.evidence.settings import SETTINGS, Setting
from benchmarks.evidence.table import finished_runs
from benchmarks.results import run_benchmark, write_results


@dataclass(frozen=True)
class Row:
    """One method of the table."""

    method: str
    start: float
    """Relative difference from bilinear in the guide, before fine-tuning."""
    seeds: Sequence[float]
    """Relative difference from bilinear in each fine-tuned run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the table."""
    options = _parse(arguments)
    setting, paths = SETTINGS[options.setting], Paths(options.output, options.data, None)
    dataset = load_dataset(paths.dataset(setting), "val")
    rows = []
    for method in options.interpolators.split(",") if options.interpolators else TABLES[options.table]:
        detectors = [load_detector(run).detector for run in finished_runs(paths.comparison(setting) / method)]
        seeds = [branch_share(detector, dataset, options.images) for detector in detectors]
        rows.append(Row(method, branch_share(_start(setting, method, paths), dataset, options.images), seeds))
        values = ", ".join(f"{value:.4f}" for value in seeds)
        print(f"{method:24} start {rows[-1].start:.4f}  fine-tuned {mean(seeds):.4f} ({values})", flush=True)
    write_results(
        options.json, {"setting": setting.name, "images": options.images, "methods": [asdict(r) for r in rows]}
    )


@torch.no_grad()
def branch_share(detector: Detector, dataset: Dataset, images: int) -> float:
    """Root mean square of the interpolator's maps less bilinear ones, divided by that of the bilinear ones."""
    difference = bilinear = 0.0
    for batch in eval_batches(dataset, detector.input, limit=images, workers=0):
        for call in pyramid_and_calls(detector, batch.images)[1]:
            enlarged = detector.neck.interpolator(call.coarse, call.fine)
            smooth = F.interpolate(call.coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
            difference += float((enlarged - smooth).square().sum())
            bilinear += float(smooth.square().sum())
    return (difference / bilinear) ** 0.5


def _start(setting: Setting, method: str, paths: Paths) -> Detector:
    """The guide with the interpolator that the runs of ``method`` start from."""
    if method not in PRETRAINED:
        return load_detector(paths.guide(setting), method).detector
    source = PRETRAINED[method]
    folder = paths.pretraining(SETTINGS[source.setting or setting.name], source.run) / f"stage{source.stage}"
    return load_detector(paths.guide(setting), load_interpolator(folder)).detector


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset with val; not for 'shapes'")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), metavar="DIR")
    parser.add_argument("--interpolators", metavar="NAMES", help="fewer methods of the table")
    parser.add_argument("--images", type=int, default=50, help="validation images")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
