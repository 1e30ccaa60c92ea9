"""The tables that ``afictl eval`` shows, and where tables are printed to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from afictl.evaluation import Evaluation

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def roomy_console() -> Console:
    """Not narrower than the tables when the output is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def overall_table(result: Evaluation) -> Table:
    """AP over all classes, of boxes and of masks."""
    table = _table("Average precision, points of 100", ("", *METRICS))
    for kind in kinds(result):
        table.add_row(kind, *(_points(result.metrics[f"{kind}/{name}"]) for name in METRICS))
    return table


def class_table(result: Evaluation) -> Table:
    """AP and AP50 of every class that has objects."""
    from rich.markup import escape

    columns = [f"{kind}/{name}" for kind in kinds(result) for name in ("AP", "AP50")]
    rows = [row for row in result.per_class if row["objects"]]
    absent = len(result.per_class) - len(rows)
    title = f"By class; {absent} without objects left out" if absent else "By class"
    table = _table(title, ("class", "objects", *(column.replace("/", " ") for column in columns)))
    for row in rows:
        table.add_row(escape(row["name"]), str(row["objects"]), *(_points(row[column]) for column in columns))
    return table


def comparison_table(results: Mapping[str, Evaluation]) -> Table:
    """AP of several, one below the other, each with its difference to the first."""
    from rich.markup import escape

    first, *_ = results.values()
    table = _table("Average precision, points of 100; below it the difference to the first", ("", "of", *METRICS))
    for kind in kinds(first):
        table.add_section()
        for name, result in results.items():
            cells = [
                _points(result.metrics.get(f"{kind}/{m}"))
                + ("" if result is first else _change(difference(result, first, f"{kind}/{m}")))
                for m in METRICS
            ]
            table.add_row(escape(name), kind, *cells)
    return table


def difference(result: Evaluation, first: Evaluation, metric: str) -> float | None:
    """How many points a metric is above that of the first; None where one of them has none."""
    value, reference = result.metrics.get(metric), first.metrics.get(metric)
    return None if value is None or reference is None else value - reference


def kinds(result: Evaluation) -> list[str]:
    """What was scored: ``box``, and ``mask`` where there are masks."""
    return [kind for kind in ("box", "mask") if f"{kind}/AP" in result.metrics]


def _table(title: str, headings: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for heading in headings:
        # names go on in the next line where the terminal is narrow; cut off, all of them may look the same
        table.add_column(heading, justify="left" if heading in ("", "of", "class") else "right", overflow="fold")
    return table


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _change(value: float | None) -> str:
    from afictl.evaluation.number_format import signed

    return "" if value is None else f"\n{signed(value)}"
