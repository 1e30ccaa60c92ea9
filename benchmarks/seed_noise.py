"""Spread of AP between trainings, by the random stream that varies: ``python -m benchmarks.seed_noise``.

It fine-tunes ``afi-lite`` with fresh weights from the guide of the setting ``shapes`` of the evidence, as a row of the
table ``main`` does; all other weights come from the guide, so that the initial weights that vary are those of the
interpolator. Each stream of ``afictl.training.seeds`` varies alone, then all together, then none, which shows whether a
training can be repeated at all. The run ``seed0`` is the first of every group. The same command continues what was
interrupted, and ``--runs`` adds runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

from afictl.data import load_dataset
from afictl.evaluation.evaluators import hotcoco_precision
from afictl.evaluation.ground_truth import GroundTruth, ground_truth_of
from afictl.evaluation.metrics import METRICS
from afictl.evaluation.predictions import Predictions, read_predictions
from afictl.presets import Preset, load_preset
from afictl.run_folder import PREDICTIONS
from afictl.run_records import read_metrics
from afictl.training import HardwareSettings, InitialWeights, finetune, launch
from afictl.training.seeds import Seeds
from benchmarks.evidence.commands import Paths
from benchmarks.evidence.settings import SETTINGS
from benchmarks.results import run_benchmark, write_results

_SETTING = SETTINGS["shapes"]
_KIND = "afi-lite"
_AP = METRICS[0]
_FIRST = "seed0"
_RESAMPLES = 300

Groups = Mapping[str, Mapping[str, Seeds]]
"""Runs with their seeds by name, by what varies among them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing in the output folder, and print and write the table."""
    options = _parse(arguments)
    preset = load_preset(_SETTING.preset, [*_settings(), *options.set])
    paths = Paths(options.evidence, None, None)
    groups = groups_of_runs(options.runs)
    runs = {name: seeds for group in groups.values() for name, seeds in group.items()}
    accuracies: dict[str, list[float]] = {}
    for name, seeds in sorted(runs.items(), key=lambda item: max(vars(item[1]).values())):
        accuracies[name] = _train(preset, paths, options.output / name, seeds)
        print(f"{name}: AP {', '.join(f'{value:.2f}' for value in accuracies[name])}", flush=True)
    points = {name: fmean(values[-options.last :]) for name, values in accuracies.items()}
    rows = {
        source: _spread([points[name] for name in (_FIRST, *group) if name in points])
        for source, group in groups.items()
    }
    rows |= _evaluation_noise(paths.dataset(_SETTING), [options.output / name for name in (_FIRST, "all-1")])
    for source, row in rows.items():
        interval = f" ({row['low']:.2f} to {row['high']:.2f})" if "low" in row else ""
        print(f"{source:36} standard deviation {row['deviation']:.2f}{interval}")
    write_results(options.json, {"settings": options.set, "last": options.last, "spread": rows, "runs": accuracies})


def groups_of_runs(count: int) -> Groups:
    """``count`` - 1 runs for each stream alone and for all together, beside ``seed0``, and a repetition of that."""
    first = Seeds.of(0)
    streams = [field.name for field in fields(Seeds)]
    alone = {stream: {f"{stream}-{k}": replace(first, **{stream: k}) for k in range(1, count)} for stream in streams}
    together = {f"all-{k}": Seeds.of(k) for k in range(1, count)}
    return {"nothing": {_FIRST: first, "repetition": first}, **alone, "all": together}


def _settings() -> list[str]:
    """Overrides of the preset."""
    return [value for flag, value in pairwise(_SETTING.training_flags(_SETTING.steps)) if flag == "--set"]


def _train(preset: Preset, paths: Paths, folder: Path, seeds: Seeds) -> list[float]:
    """AP of the evaluations of one run, which is continued if it exists."""
    fabric = launch(HardwareSettings(devices="1"), [preset.train.batch_size])
    initial = InitialWeights(interpolator=_KIND, weights=paths.guide(_SETTING))
    finetune(fabric, preset, paths.dataset(_SETTING), folder, initial, seed=seeds, resume=True)
    return [float(record["box/AP"] or 0) for record in read_metrics(folder) if "box/AP" in record]


def _spread(points: Sequence[float]) -> dict[str, float]:
    """Standard deviation with its 95 % interval for normally distributed ``points``."""
    deviation, degrees = stdev(points), len(points) - 1
    low, high = (deviation * math.sqrt(degrees / chi_square_quantile(p, degrees)) for p in (0.975, 0.025))
    return {"deviation": deviation, "low": low, "high": high, "runs": len(points)}


def chi_square_quantile(probability: float, degrees: int) -> float:
    """Quantile of the chi-square distribution of ``degrees`` degrees of freedom, by bisection."""
    low, high = 0.0, degrees + 20 * math.sqrt(2 * degrees)
    half_degrees = torch.tensor(degrees / 2, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        below = torch.special.gammainc(half_degrees, torch.tensor(middle / 2, dtype=torch.float64)) < probability
        low, high = (middle, high) if below else (low, middle)
    return high


def _evaluation_noise(data: Path, runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Bootstrap over the validation images: deviation of AP of the first run, and of the difference of the two."""
    truth = ground_truth_of(load_dataset(data, "val"), None)
    predictions = [read_predictions(run / PREDICTIONS, truth, restricted=False) for run in runs]
    generator = np.random.default_rng(0)
    table = []
    for _ in range(_RESAMPLES):
        images = np.sort(generator.integers(len(truth.image_ids), size=len(truth.image_ids)))
        table.append([accuracy_of_images(truth, results, images) for results in predictions])
    first, second = np.transpose(table)
    return {
        "evaluation images": {"deviation": float(np.std(first, ddof=1))},
        "evaluation images, of a difference": {"deviation": float(np.std(second - first, ddof=1))},
    }


def accuracy_of_images(truth: GroundTruth, predictions: Predictions, images: np.ndarray) -> float:
    """Box AP on ``images``, positions in ``truth`` in ascending order; repeated images count as different ones."""
    objects, truth_images = _rows_of(truth.images, images)
    results, result_images = _rows_of(predictions.images, images)
    sample = replace(
        truth,
        image_ids=np.arange(len(images)),
        sizes_hw=truth.sizes_hw[images],
        images=truth_images,
        **{name: getattr(truth, name)[objects] for name in ("categories", "boxes", "areas", "crowd")},
    )
    columns = {name: getattr(predictions, name)[results] for name in ("categories", "boxes", "scores")}
    value = _AP.getter(hotcoco_precision(sample, replace(predictions, images=result_images, **columns), None))
    return float(value or 0)


def _rows_of(images_of_rows: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (sorted by image) that belong to each of ``images``, and the position in ``images`` of each."""
    starts, ends = (np.searchsorted(images_of_rows, images, side=side) for side in ("left", "right"))
    rows = [np.arange(*pair) for pair in zip(starts, ends, strict=True)]
    return np.concatenate(rows), np.repeat(np.arange(len(images)), ends - starts)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--evidence", type=Path, default=Path("runs/evidence"), metavar="DIR", help="data and guide")
    parser.add_argument("--output", type=Path, default=Path("runs/seed-noise"), metavar="DIR")
    parser.add_argument("--runs", type=int, default=6, help="runs of each group, with the one that all share")
    parser.add_argument("--last", type=int, default=1, help="evaluations whose mean is the AP of a run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the preset; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
