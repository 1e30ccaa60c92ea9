"""The result of a comparison as a table on screen, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from afictl.training.run import write_text

_AREAS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Row:
    """One interpolator: accuracy in AP points (0..100) and what it costs.

    Multiply-adds and milliseconds are those of one forward of one image; the interpolator's are part of the detector's.
    """

    name: str
    metrics: Mapping[str, float | None]
    parameters: int
    interpolator_parameters: int
    multiply_adds: int
    interpolator_multiply_adds: int
    milliseconds: float
    interpolator_milliseconds: float
    training_seconds: float


def comparison_table(rows: Sequence[Row]) -> Table:
    """A rich table; the best value of each accuracy column is bold."""
    names = [name for name in _metric_names(rows) if any(row.metrics.get(name) is not None for row in rows)]
    table = Table(title="AP in points of 100; cost of one image, the interpolator's share in brackets")
    table.add_column("interpolator")
    for name in names:
        table.add_column(name.replace("/", " "), justify="right")
    for head in ("parameters, M", "multiply-adds, G", "forward, ms", "training, min"):
        table.add_column(head, justify="right")
    best = {name: max(row.metrics.get(name) or 0.0 for row in rows) for name in names}
    for row in rows:
        table.add_row(
            row.name,
            *(_accuracy(row.metrics.get(name), best[name]) for name in names),
            f"{row.parameters / 1e6:.2f} ({row.interpolator_parameters / 1e6:.2f})",
            f"{row.multiply_adds / 1e9:.2f} ({row.interpolator_multiply_adds / 1e9:.2f})",
            f"{row.milliseconds:.1f} ({row.interpolator_milliseconds:.1f})",
            f"{row.training_seconds / 60:.1f}",
        )
    return table


def write_comparison(rows: Sequence[Row], folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``."""
    write_text(folder / "comparison.json", json.dumps([asdict(row) for row in rows], indent=2))
    names = _metric_names(rows)
    text = io.StringIO()
    flat = [{**{name: row.metrics.get(name) for name in names}, **_costs(row)} for row in rows]
    writer = csv.DictWriter(text, ["interpolator", *flat[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"interpolator": row.name, **values} for row, values in zip(rows, flat, strict=True))
    write_text(folder / "comparison.csv", text.getvalue())


def _metric_names(rows: Sequence[Row]) -> list[str]:
    kinds = [kind for kind in ("box", "mask") if any(f"{kind}/AP" in row.metrics for row in rows)]
    return [f"{kind}/{area}" for kind in kinds for area in _AREAS]


def _costs(row: Row) -> dict[str, float]:
    return {name: value for name, value in asdict(row).items() if name not in ("name", "metrics")}


def _accuracy(value: float | None, best: float) -> str:
    if value is None:
        return "-"
    return f"[bold]{value:.1f}[/bold]" if value == best else f"{value:.1f}"
