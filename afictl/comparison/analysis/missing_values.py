"""Why tables and curves of a comparison lack values of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afictl.comparison.results import Comparison, ComparisonRun
from afictl.errors import UserError, format_error
from afictl.evaluation.metrics import KINDS, METRICS
from afictl.run_records import read_metrics


def record_faults(comparison: Comparison) -> list[str]:
    """One text for each run whose ``metrics.jsonl`` cannot be read."""
    faults = []
    for name, run in _named_runs(comparison):
        try:
            read_metrics(run.folder)
        except (OSError, UserError) as error:
            values = "no curve" if run.training_seconds is not None else "no curve and no training time"
            faults.append(f"{name} has {values}: {format_error(error)}")
    return faults


def absent_metrics(comparison: Comparison) -> list[str]:
    """One text for the runs whose results lack metrics that others have, as those of an earlier version may."""
    runs = dict(_named_runs(comparison))
    recorded = {key for run in runs.values() for key in run.metrics}
    lacking: dict[str, list[str]] = {}
    for name, run in runs.items():
        kinds = [kind for kind in KINDS if f"{kind}/AP" in run.metrics]
        keys = [f"{kind}/{metric.key}" for kind in kinds for metric in METRICS]
        if absent := [key for key in keys if key in recorded - run.metrics.keys()]:
            lacking.setdefault(", ".join(absent), []).append(name)
    return [
        f"results of an earlier version lack {keys}: {_first(names)}; 'afictl compare --runs' computes all metrics from"
        " the stored predictions"
        for keys, names in lacking.items()
    ]


def _named_runs(comparison: Comparison) -> Iterator[tuple[str, ComparisonRun]]:
    for method in comparison.methods:
        for run in method.runs:
            yield f"{method.name}, seed {run.seed}", run


def _first(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
