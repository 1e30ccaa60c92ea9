"""``comparison.json``, ``comparison.csv`` with one row per method, and ``runs.csv`` with one row per run.

Keys and columns are a stable file format, independent of attribute names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from afictl.comparison.analysis.cost_columns import COST_COLUMNS, CostColumn
from afictl.comparison.analysis.spread_columns import spread_values
from afictl.comparison.results import Comparison, Cost, MethodResult, Tuning
from afictl.evaluation.metrics import KINDS
from afictl.files import write_csv, write_text
from afictl.run_folder import COMPARISON, COMPARISON_CSV, RUNS_CSV


def write_comparison_tables(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv`` and, where there are runs, ``runs.csv``."""
    write_text(folder / COMPARISON, json.dumps(comparison_record(comparison), indent=2, default=str))
    _write_rows(folder / COMPARISON_CSV, [_method_row(method) for method in comparison.methods])
    runs = [row for method in comparison.methods for row in _run_rows(method)]
    if runs:
        _write_rows(folder / RUNS_CSV, runs)
    else:
        (folder / RUNS_CSV).unlink(missing_ok=True)


def comparison_record(comparison: Comparison) -> dict[str, object]:
    """Content of ``comparison.json``."""
    return {
        "preset": comparison.preset,
        "annotation_file": comparison.annotation_file,
        "image_dir": comparison.image_dir,
        "baseline": comparison.baseline,
        "conditions": {"prices" if key == "cost" else key: text for key, text in comparison.settings.items()},
        "methods": [_method_record(method) for method in comparison.methods],
        "price_basis": comparison.cost_basis,
    }


def _method_record(method: MethodResult) -> dict[str, object]:
    return {
        "name": method.name,
        "source": method.source,
        "cells": [asdict(run) for run in method.runs],
        "price": _cost_record(method, method.cost) if method.cost else None,
        "mean": method.mean,
        "deviation": method.deviation,
        "difference": {metric: asdict(difference) for metric, difference in method.difference.items()},
        "verdict": method.verdict,
        "origin": method.origin,
        "spread": _spread(method),
        "tuning": _tuning_record(method.tuning) if method.tuning else None,
    }


def _cost_record(method: MethodResult, cost: Cost) -> dict[str, object]:
    columns = [column for column in COST_COLUMNS if column.inference]
    return {"image_hw": cost.image_hw, **_cost_values(method, columns), "scatter": cost.scatter}


def _tuning_record(tuning: Tuning) -> dict[str, object]:
    scores = [{"value": item.value, "box/AP": item.ap, "failure": item.failure} for item in tuning.values]
    return {"key": tuning.key, "chosen": tuning.chosen, "scores": scores}


def _spread(method: MethodResult) -> dict[str, Mapping[str, float | None]]:
    """Spread between seeds by metric."""
    return {metric: spread_values(method, metric) for kind in KINDS if (metric := f"{kind}/AP") in method.mean}


def _cost_values(method: MethodResult, columns: Sequence[CostColumn]) -> dict[str, float | None]:
    """Costs of the detector, each followed by that of the interpolator, in base units."""
    values = {}
    for column in columns:
        values[column.key] = column.getter(method)
        if column.part_getter:
            values[f"interpolator_{column.key}"] = column.part_getter(method)
    return values


def _method_row(method: MethodResult) -> dict[str, object]:
    row: dict[str, object] = {"interpolator": method.name, "source": method.source, "seeds": len(method.runs)}
    for metric, mean in method.mean.items():
        row |= {metric: mean, f"{metric} sd": method.deviation[metric]}
        difference = method.difference.get(metric)
        for name in ("mean", "low", "high", "seeds", "claimed"):
            row[f"{metric} difference {name}"] = getattr(difference, name) if difference else None
    if method.cost:
        row |= dict(zip(("image_width", "image_height"), reversed(method.cost.image_hw), strict=True))
    columns = [column for column in COST_COLUMNS if method.cost or not column.inference]
    row |= _cost_values(method, columns) | {"verdict": method.verdict, "origin": method.origin}
    if method.tuning:
        row[f"tuned {method.tuning.key}"] = method.tuning.chosen
    return row | {f"{metric} {key}": value for metric, items in _spread(method).items() for key, value in items.items()}


def _run_rows(method: MethodResult) -> list[dict[str, object]]:
    return [
        {
            "interpolator": method.name,
            "seed": run.seed,
            **run.metrics,
            "training_seconds": run.training_seconds,
            "folder": str(run.folder),
        }
        for run in method.runs
    ]


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows`` as CSV, with a column for each key of any row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, names, ([row.get(name, "") for name in names] for row in rows))
