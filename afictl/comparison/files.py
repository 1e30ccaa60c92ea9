"""A comparison as JSON, and as CSV with a row for each method and one for each run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from afictl.comparison.model import Comparison, Method
from afictl.files import write_csv, write_text
from afictl.run_folder import COMPARISON, COMPARISON_CSV, RUNS_CSV


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv`` and, where there are runs, ``runs.csv``."""
    write_text(folder / COMPARISON, json.dumps(asdict(comparison), indent=2, default=str))
    _write_rows(folder / COMPARISON_CSV, [_method_row(each) for each in comparison.methods])
    runs = [row for each in comparison.methods for row in _run_rows(each)]
    if runs:
        _write_rows(folder / RUNS_CSV, runs)
    else:
        (folder / RUNS_CSV).unlink(missing_ok=True)


def _method_row(method: Method) -> dict[str, Any]:
    row: dict[str, Any] = {"interpolator": method.name, "source": method.source, "seeds": len(method.cells)}
    for metric, mean in method.mean.items():
        row |= {metric: mean, f"{metric} sd": method.deviation[metric]}
        difference = method.difference.get(metric)
        for name in ("mean", "low", "high", "seeds", "claimed"):
            row[f"{metric} difference {name}"] = getattr(difference, name) if difference else None
    if method.price:
        height, width = method.price.image_hw
        numbers = {name: value for name, value in asdict(method.price).items() if name != "image_hw"}
        row |= {"image_width": width, "image_height": height, **numbers}
    return row | {"training_seconds": training_seconds(method), "verdict": method.verdict}


def training_seconds(method: Method) -> float | None:
    """Mean over the runs that tell."""
    known = [cell.training_seconds for cell in method.cells if cell.training_seconds is not None]
    return sum(known) / len(known) if known else None


def _run_rows(method: Method) -> list[dict[str, Any]]:
    return [
        {
            "interpolator": method.name,
            "seed": cell.seed,
            **cell.metrics,
            "training_seconds": cell.training_seconds,
            "folder": str(cell.folder),
        }
        for cell in method.cells
    ]


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of ``rows`` with a column for each key of any of them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, names, ([row.get(name, "") for name in names] for row in rows))
