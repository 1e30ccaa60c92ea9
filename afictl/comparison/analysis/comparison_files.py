"""A comparison as JSON, and as CSV with a row for each method and one for each run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from afictl.comparison.results import Comparison, MethodResult
from afictl.files import write_csv, write_text
from afictl.run_folder import COMPARISON, COMPARISON_CSV, RUNS_CSV


def write_comparison_tables(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv`` and, where there are runs, ``runs.csv``."""
    write_text(folder / COMPARISON, json.dumps(comparison_record(comparison), indent=2, default=str))
    _write_rows(folder / COMPARISON_CSV, [_method_row(each) for each in comparison.methods])
    runs = [row for each in comparison.methods for row in _run_rows(each)]
    if runs:
        _write_rows(folder / RUNS_CSV, runs)
    else:
        (folder / RUNS_CSV).unlink(missing_ok=True)


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """The content of ``comparison.json``, whose keys do not follow the names of the attributes."""
    return {
        "preset": comparison.preset,
        "annotation_file": comparison.annotation_file,
        "image_dir": comparison.image_dir,
        "baseline": comparison.baseline,
        "conditions": comparison.settings,
        "methods": [_method_record(method) for method in comparison.methods],
        "price_basis": comparison.cost_basis,
    }


def _method_record(method: MethodResult) -> dict[str, Any]:
    return {
        "name": method.name,
        "source": method.source,
        "cells": [asdict(run) for run in method.runs],
        "price": asdict(method.cost) if method.cost else None,
        "mean": method.mean,
        "deviation": method.deviation,
        "difference": {metric: asdict(difference) for metric, difference in method.difference.items()},
        "verdict": method.verdict,
    }


def _method_row(method: MethodResult) -> dict[str, Any]:
    row: dict[str, Any] = {"interpolator": method.name, "source": method.source, "seeds": len(method.runs)}
    for metric, mean in method.mean.items():
        row |= {metric: mean, f"{metric} sd": method.deviation[metric]}
        difference = method.difference.get(metric)
        for name in ("mean", "low", "high", "seeds", "claimed"):
            row[f"{metric} difference {name}"] = getattr(difference, name) if difference else None
    if method.cost:
        height, width = method.cost.image_hw
        numbers = {name: value for name, value in asdict(method.cost).items() if name != "image_hw"}
        row |= {"image_width": width, "image_height": height, **numbers}
    return row | {"training_seconds": mean_training_seconds(method), "verdict": method.verdict}


def mean_training_seconds(method: MethodResult) -> float | None:
    """Mean over the runs that tell."""
    known = [cell.training_seconds for cell in method.runs if cell.training_seconds is not None]
    return sum(known) / len(known) if known else None


def _run_rows(method: MethodResult) -> list[dict[str, Any]]:
    return [
        {
            "interpolator": method.name,
            "seed": cell.seed,
            **cell.metrics,
            "training_seconds": cell.training_seconds,
            "folder": str(cell.folder),
        }
        for cell in method.runs
    ]


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of ``rows`` with a column for each key of any of them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, names, ([row.get(name, "") for name in names] for row in rows))
