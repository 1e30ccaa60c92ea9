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


def comparison_tables(rows: Sequence[Row]) -> list[Table]:
    """Accuracy of boxes, of masks where there are any, and price, as rich tables; the best accuracy is bold."""
    return [*(_accuracy_table(rows, kind) for kind in _kinds(rows)), _price_table(rows)]


def _accuracy_table(rows: Sequence[Row], kind: str) -> Table:
    names = [name for name in _AREAS if any(row.metrics.get(f"{kind}/{name}") is not None for row in rows)]
    table = Table("interpolator", title=f"{kind} AP, points of 100")
    for name in names:
        table.add_column(name, justify="right")
    values = {row.name: [row.metrics.get(f"{kind}/{name}") for name in names] for row in rows}
    best = [max(value or 0.0 for value in column) for column in zip(*values.values(), strict=True)]
    for row_name, cells in values.items():
        table.add_row(row_name, *(_accuracy(value, top) for value, top in zip(cells, best, strict=True)))
    return table


def _price_table(rows: Sequence[Row]) -> Table:
    table = Table("interpolator", title="price: detector (of it, interpolator), one image")
    for head in ("M parameters", "G multiply-adds", "ms forward", "min training"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            row.name,
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
    return [f"{kind}/{area}" for kind in _kinds(rows) for area in _AREAS]


def _kinds(rows: Sequence[Row]) -> list[str]:
    return [kind for kind in ("box", "mask") if any(f"{kind}/AP" in row.metrics for row in rows)]


def _costs(row: Row) -> dict[str, float]:
    return {name: value for name, value in asdict(row).items() if name not in ("name", "metrics")}


def _accuracy(value: float | None, best: float) -> str:
    if value is None:
        return "-"
    return f"[bold]{value:.1f}[/bold]" if value == best else f"{value:.1f}"
