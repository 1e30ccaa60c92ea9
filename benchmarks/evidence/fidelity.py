"""Distance to the guide's features, and whether it predicts AP: ``python -m benchmarks.evidence.fidelity SETTING``.

It reads what ``python -m benchmarks.evidence SETTING fidelity`` has trained: the held-out distances of stage 1 on the
maps that the neck enlarges, and the AP of the fine-tuned detectors that start with those interpolators.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from afictl.run_folder import FEATURE_DISTANCE
from afictl.run_records import read_feature_distance
from benchmarks.evidence.commands import Paths
from benchmarks.evidence.methods import PRETRAINED, PRETRAININGS, TABLES
from benchmarks.evidence.settings import SETTINGS, Setting
from benchmarks.evidence.table import read_metrics
from benchmarks.results import run_benchmark, write_results

_MEASURES = ("l1", "cosine")
_ANY_RUN = "afi-sums"
"""Every run of stage 1 holds the distances of nearest, bilinear and bicubic interpolation."""


@dataclass(frozen=True)
class Row:
    """One method of the table."""

    method: str
    distance: Mapping[str, Mapping[str, float]]
    """Distance by level and measure."""
    points: Sequence[float]
    """Box AP of each seed."""

    def mean_distance(self, measure: str) -> float:
        """Mean over the levels."""
        return mean(level[measure] for level in self.distance.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the table and the rank correlations."""
    options = _parse(arguments)
    rows = read_rows(SETTINGS[options.setting], Paths(options.output, None, None))
    for row in rows:
        means = "  ".join(f"{measure} {row.mean_distance(measure):.3f}" for measure in _MEASURES)
        points = ", ".join(f"{value:.1f}" for value in row.points)
        print(f"{row.method:24} {means}  AP {mean(row.points):.1f} ({points})")
    accuracies = [mean(row.points) for row in rows]
    correlations = {
        measure: rank_correlation([row.mean_distance(measure) for row in rows], accuracies) for measure in _MEASURES
    }
    print(f"rank correlation with AP: {', '.join(f'{key} {value:+.2f}' for key, value in correlations.items())}")
    write_results(options.json, {"methods": [asdict(row) for row in rows], "correlation": correlations})


def read_rows(setting: Setting, paths: Paths) -> list[Row]:
    """Distances and AP of every method of the table ``fidelity``.

    Raises:
        UserError: a run of the table is not finished.
    """
    rows = []
    for method in TABLES["fidelity"]:
        run = PRETRAINED[method].run if method in PRETRAINED else _ANY_RUN
        kind = PRETRAININGS[run].kind if method in PRETRAINED else method
        distances = read_feature_distance(paths.pretraining(setting, run) / "stage1" / FEATURE_DISTANCE)
        metrics = read_metrics(paths.comparison(setting) / method)
        rows.append(Row(method, distances[kind], [values["box/AP"] for values in metrics.values()]))
    return rows


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's coefficient of two sequences of at least two values; ties get their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
