"""A comparison as JSON, and as CSV with a row for each method and one for each run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from afictl.comparison.model import Comparison, Method
from afictl.writing import write_text

TABLE = "comparison.json"


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``comparison.csv`` and, where there are runs, ``runs.csv``."""
    write_text(folder / TABLE, json.dumps(asdict(comparison), indent=2, default=str))
    _write_csv(folder / "comparison.csv", [_method_row(each) for each in comparison.methods])
    runs = [row for each in comparison.methods for row in _run_rows(each)]
    if runs:
        _write_csv(folder / "runs.csv", runs)
    else:
        (folder / "runs.csv").unlink(missing_ok=True)


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


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
