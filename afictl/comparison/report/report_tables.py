"""Tables of the report: cells with text and sort key."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afictl.comparison.analysis.cost_columns import COST_COLUMNS, CostColumn
from afictl.comparison.analysis.spread_columns import SPREAD_COLUMNS, SpreadColumn, has_spread
from afictl.comparison.analysis.tuned_scores import tuned_score
from afictl.comparison.report.plot_layout import MINUS
from afictl.comparison.results import Comparison, ComparisonRun, Difference, MethodResult, TunedValue
from afictl.evaluation.metrics import METRICS, POINTS, Metric, format_difference

_FIRST_CLASSES = 20
_MAX_CLASS_CELLS = 30_000
"""Maximum number of cells in the class tables, which limits the size of the page."""
_TINT_POINTS = (0.5, 2.0, 5.0)
"""Minimum absolute differences of the three tints."""


_BEFORE_PATH = r"(?<![^\s'\"(=])"
"""What stands before an absolute path in a text: its start, a space, a quote, a bracket or an equals sign."""


@dataclass(frozen=True)
class TableCell:
    """One value of a table."""

    text: str
    detail: str = ""
    """Second line: the deviation, interval or part."""
    sort_key: float | None = None
    """None is sorted last."""
    css_class: str = ""
    """``up1`` to ``up3``, ``down1`` to ``down3``, ``claimed`` or ``path``."""


@dataclass(frozen=True)
class TableRow:
    """A row; its name is the row header."""

    name: str
    detail: str
    """Second line of the header."""
    cells: tuple[TableCell, ...]
    method_index: int | None = None
    """Index of the method in the comparison, for a row of a method."""


@dataclass(frozen=True)
class ReportTable:
    """A table; headers are pairs of title and unit, the first for the names."""

    caption: str
    headers: tuple[tuple[str, str], ...]
    rows: tuple[TableRow, ...]


NO_VALUE = TableCell("\N{EN DASH}")


def method_tables(comparison: Comparison) -> list[ReportTable]:
    """Tables of box accuracy with costs and of mask accuracy; only costs where nothing was trained.

    The second line of a name is the origin of the interpolator's weights.
    """
    titles = {"box": "Box AP and cost", "mask": "Mask AP", "": "Cost"}
    tables = []
    for number, kind in enumerate(comparison.kinds or [""]):
        costs = () if number else COST_COLUMNS
        accuracy = _accuracy_headers(kind, comparison.baseline) if kind else []
        rows = [
            TableRow(
                method.name,
                ", ".join(filter(None, ("baseline" * (method.name == comparison.baseline), method.origin))),
                (*(_accuracy_cells(method, kind) if kind else ()), *(_cost_cell(method, column) for column in costs)),
                index,
            )
            for index, method in enumerate(comparison.methods)
        ]
        headers = (("Method", ""), *accuracy, *((column.title, column.unit) for column in costs))
        tables.append(ReportTable(titles[kind], headers, tuple(rows)))
    return tables


def spread_tables(comparison: Comparison) -> list[ReportTable]:
    """Tables of the spread of box and mask AP between seeds; empty where no difference has a deviation."""
    if not any(map(has_spread, comparison.methods)):
        return []
    headers = (("Method", ""), *((column.title, column.unit) for column in SPREAD_COLUMNS))
    return [
        ReportTable(
            f"Spread of {kind} AP between seeds",
            headers,
            tuple(
                TableRow(
                    method.name,
                    "",
                    tuple(_spread_cell(column, method, f"{kind}/AP") for column in SPREAD_COLUMNS),
                    index,
                )
                for index, method in enumerate(comparison.methods)
            ),
        )
        for kind in comparison.kinds
    ]


def tuning_table(comparison: Comparison) -> ReportTable | None:
    """Table of the scores of all values of a tuning; None without one."""
    tunings = [(index, method.name, method.tuning) for index, method in enumerate(comparison.methods) if method.tuning]
    if not tunings:
        return None
    first = tunings[0][2]
    headers = (("Method", ""), *((str(item.value), first.key) for item in first.values))
    rows = tuple(
        TableRow(name, "", tuple(_tuned_cell(item, item.value == tuning.chosen) for item in tuning.values), index)
        for index, name, tuning in tunings
    )
    return ReportTable("Tuning: box AP on held-out training images", headers, rows)


def class_tables(comparison: Comparison) -> tuple[list[ReportTable], int]:
    """Tables of the box AP of each class minus that of the baseline, and the number of omitted classes.

    A difference is the mean over the seeds that a method shares with the baseline. Classes are sorted by their largest
    absolute difference, ties in the order of the dataset; the first table has the first twenty.
    """
    baseline, *candidates = comparison.methods
    trained = [method for method in candidates if method.runs]
    if not baseline.runs or not trained:
        return [], 0
    objects = {row["name"]: int(row["objects"]) for row in baseline.runs[0].per_class}
    differences = [_class_differences(method, baseline) for method in trained]
    order = sorted(objects, key=lambda name: -max(abs(values.get(name) or 0.0) for values in differences))
    selection = order[: max(_FIRST_CLASSES, _MAX_CLASS_CELLS // len(trained))]
    headers = (("Class", ""), ("Objects", ""), *((method.name, "") for method in trained))
    rows = [
        TableRow(
            name,
            "",
            (
                TableCell(f"{objects[name]:,}", sort_key=objects[name]),
                *(_class_cell(values.get(name)) for values in differences),
            ),
        )
        for name in selection
    ]
    parts = (("Differences to the baseline", rows[:_FIRST_CLASSES]), ("The rest", rows[_FIRST_CLASSES:]))
    return [ReportTable(title, headers, tuple(part)) for title, part in parts if part], len(order) - len(selection)


def run_table(comparison: Comparison, report_dir: Path) -> ReportTable | None:
    """Table of all runs with folders relative to ``report_dir`` or the current folder; None without runs."""
    rows = [
        TableRow(method.name, "", _run_cells(run, report_dir), index)
        for index, method in enumerate(comparison.methods)
        for run in method.runs
    ]
    headers = (("Method", ""), ("Seed", ""), ("Box AP", "points"), ("Training", "minutes"), ("Folder", ""))
    return ReportTable("Runs", headers, tuple(rows)) if rows else None


def _run_cells(run: ComparisonRun, report_dir: Path) -> tuple[TableCell, ...]:
    ap, seconds = run.metrics.get("box/AP"), run.training_seconds
    return (
        TableCell(str(run.seed), sort_key=run.seed),
        NO_VALUE if ap is None else TableCell(f"{ap:.1f}", sort_key=ap),
        NO_VALUE if seconds is None else TableCell(f"{seconds / 60:.1f}", sort_key=seconds),
        TableCell(shorten_paths(str(run.folder.resolve()), report_dir), css_class="path"),
    )


def shorten_paths(text: str, report_dir: Path) -> str:
    """Replace absolute paths in ``text``, as a report is passed on and they hold names of users and machines.

    Paths in ``report_dir`` or the current folder become relative to it; of others only the last part is left.
    """
    folders = [str(folder.resolve()).rstrip("/") for folder in (report_dir, Path.cwd())]
    return " / ".join(_shorten_paths(part, folders) for part in text.split(" / "))


def _shorten_paths(text: str, folders: Sequence[str]) -> str:
    if os.path.isabs(text):  # it may contain spaces
        inside = [folder for folder in folders if text.startswith(f"{folder}/")]
        return text.removeprefix(f"{inside[0]}/") if inside else _last_part(text)
    for folder in folders:
        text = re.sub(rf"{_BEFORE_PATH}{re.escape(folder)}/(?=[^\s/])", "", text)
    return re.sub(rf"{_BEFORE_PATH}/(?=[^\s/])[^\s'\",;:)]+", lambda match: _last_part(match[0]), text)


def _last_part(path: str) -> str:
    return "~" if Path(path) == Path.home() else f"…/{Path(path).name}"


def _accuracy_headers(kind: str, baseline: str) -> list[tuple[str, str]]:
    (title, unit), *headers = ((metric.title, "points" if metric.unit == POINTS else metric.unit) for metric in METRICS)
    return [(f"{kind.capitalize()} {title}", unit), ("Difference", f"to {baseline}"), *headers]


def _accuracy_cells(method: MethodResult, kind: str) -> list[TableCell]:
    first, *cells = (_mean_cell(method, kind, metric) for metric in METRICS)
    return [first, _difference_cell(method.difference.get(f"{kind}/AP")), *cells]


def _mean_cell(method: MethodResult, kind: str, metric: Metric) -> TableCell:
    mean, deviation = (values.get(f"{kind}/{metric.key}") for values in (method.mean, method.deviation))
    if mean is None:
        return NO_VALUE
    return TableCell(metric.text(mean), "" if deviation is None else f"± {metric.text(deviation)}", mean)


def _difference_cell(difference: Difference | None) -> TableCell:
    if difference is None:
        return NO_VALUE
    text = _signed(difference.mean)
    if difference.low is None or difference.high is None:
        return TableCell(text, "one seed" if difference.seeds == 1 else "", difference.mean)
    interval = f"{_signed(difference.low)} to {_signed(difference.high)}"
    return TableCell(text, interval, difference.mean, "claimed" if difference.claimed else "")


def _cost_cell(method: MethodResult, column: CostColumn) -> TableCell:
    value = column.getter(method)
    if value is None:
        return NO_VALUE
    part = f"{column.part_label} {column.text(column.part_getter(method))}" if column.part_getter else ""
    return TableCell(column.text(value), part, value)


def _spread_cell(column: SpreadColumn, method: MethodResult, metric: str) -> TableCell:
    value = column.getter(method, metric)
    return NO_VALUE if value is None else TableCell(column.text(value), sort_key=value)


def _tuned_cell(item: TunedValue, is_chosen: bool) -> TableCell:
    return TableCell(tuned_score(item), "chosen" * is_chosen, item.ap, "claimed" * is_chosen)


def _class_cell(difference: float | None) -> TableCell:
    if difference is None:
        return NO_VALUE
    tint = sum(abs(difference) >= points for points in _TINT_POINTS)
    css_class = f"{'up' if difference > 0 else 'down'}{tint}" if tint else ""
    return TableCell(_signed(difference), sort_key=difference, css_class=css_class)


def _class_differences(method: MethodResult, baseline: MethodResult) -> dict[str, float]:
    """Mean difference over shared seeds by class name, without classes for which either method has no AP."""
    references = {run.seed: {row["name"]: row.get("box/AP") for row in run.per_class} for run in baseline.runs}
    differences: dict[str, list[float]] = {}
    for run in method.runs:
        for row in run.per_class:
            reference, value = references.get(run.seed, {}).get(row["name"]), row.get("box/AP")
            if reference is not None and value is not None:
                differences.setdefault(row["name"], []).append(value - reference)
    return {name: statistics.mean(values) for name, values in differences.items()}


def _signed(value: float) -> str:
    """Format with sign and one decimal, with a true minus sign."""
    return format_difference(value).replace("-", MINUS)
