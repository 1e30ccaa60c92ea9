"""Tables of ``afictl eval``, and the console for the tables of all commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from afictl.evaluation import Evaluation


def wide_console() -> Console:
    """The console of standard output; 160 columns wide where that is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def overall_table(result: Evaluation) -> Table:
    """Every metric over all classes, of boxes and of masks."""
    from afictl.evaluation.metrics import METRICS

    table = _metric_table([""])
    for kind in result.kinds:
        table.add_row(kind, *(metric.text(result.metrics[f"{kind}/{metric.key}"]) for metric in METRICS))
    return table


def class_table(result: Evaluation) -> Table:
    """The per-class metrics of every class that has objects."""
    from rich.markup import escape

    from afictl.evaluation.metrics import CLASS_METRICS

    columns = [(kind, metric) for kind in result.kinds for metric in CLASS_METRICS]
    rows = [row for row in result.per_class if row["objects"]]
    absent = len(result.per_class) - len(rows)
    title = f"By class, without {absent} that have no objects" if absent else "By class"
    table = _table(title, ("class", "objects", *(f"{kind} {metric.title}" for kind, metric in columns)))
    for row in rows:
        cells = (metric.text(row[f"{kind}/{metric.key}"]) for kind, metric in columns)
        table.add_row(escape(row["name"]), str(row["objects"]), *cells)
    return table


def comparison_table(results: Mapping[str, Evaluation]) -> Table:
    """Every metric of several sources, with the difference to the first source below it."""
    from rich.markup import escape

    from afictl.evaluation.metrics import METRICS, format_difference

    first, *_ = results.values()
    table = _metric_table(["", "of"], "; below it the difference to the first")
    for kind in first.kinds:
        table.add_section()
        for name, result in results.items():
            cells = []
            for metric in METRICS:
                key = f"{kind}/{metric.key}"
                change = None if result is first else difference(result, first, key)
                below = "" if change is None else f"\n{format_difference(change)}"
                cells.append(metric.text(result.metrics.get(key)) + below)
            table.add_row(escape(name), kind, *cells)
    return table


def difference(result: Evaluation, first: Evaluation, metric: str) -> float | None:
    """Difference of a metric to that of ``first``; None if either is None."""
    value, reference = result.metrics.get(metric), first.metrics.get(metric)
    return None if value is None or reference is None else value - reference


def _metric_table(headings: list[str], note: str = "") -> Table:
    from afictl.evaluation.metrics import METRICS

    units = ", ".join(dict.fromkeys(metric.unit for metric in METRICS))
    return _table(f"Average precision, {units}{note}", (*headings, *(metric.title for metric in METRICS)))


def _table(title: str, headings: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for heading in headings:
        # on a narrow terminal names are folded: truncated names may be identical
        table.add_column(heading, justify="left" if heading in ("", "of", "class") else "right", overflow="fold")
    return table
