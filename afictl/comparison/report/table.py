"""The tables of the report: numbers as text, and as what they are sorted by."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afictl.comparison.analysis.cost_columns import COST_COLUMNS
from afictl.comparison.report.paths import nearby
from afictl.comparison.report.plots import MINUS
from afictl.comparison.results import Comparison, Cost, Difference, MethodResult
from afictl.evaluation.metrics import METRICS, format_difference

_CLASSES_SHOWN = 20
_CLASS_ENTRIES = 30_000
"""Most numbers in the tables of classes, which keeps the page small with a thousand classes and many methods."""
_TONES = (0.5, 2.0, 5.0)  # points from which a difference is tinted stronger


@dataclass(frozen=True)
class Entry:
    """One number of a table."""

    text: str
    below: str = ""
    """In a second line: its spread, or the part that it holds."""
    key: float | None = None
    """What it is sorted by; None goes last."""
    tone: str = ""
    """``up1`` to ``up3``, ``down1`` to ``down3``, or ``claimed``: how it is set off."""


@dataclass(frozen=True)
class Row:
    """A line of a table under its name."""

    name: str
    below: str
    entries: tuple[Entry, ...]
    series: int | None = None
    """Position of the method, where the line is a method's."""


@dataclass(frozen=True)
class Table:
    """Heads as title and unit; the first is that of the names."""

    caption: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


NONE = Entry("\N{EN DASH}")
"""Nothing was measured."""


def kinds_of(comparison: Comparison) -> list[str]:
    """``box`` and ``mask``, as far as anything was measured of them."""
    known = {name for method in comparison.methods for name, value in method.mean.items() if value is not None}
    return [kind for kind in ("box", "mask") if any(name.startswith(f"{kind}/") for name in known)]


def method_tables(comparison: Comparison, beside: Path) -> list[Table]:
    """Accuracy of boxes with the price, then the accuracy of masks; the price alone where nothing was trained.

    Below its name each method has its source, a path named from ``beside`` or the current folder.
    """
    kinds = kinds_of(comparison)
    heads = [_accuracy_heads(kind, comparison.baseline) for kind in kinds] or [[]]
    tables = []
    for number, (kind, accuracy) in enumerate(zip(kinds or [""], heads, strict=True)):
        priced = not number
        rows = [
            Row(
                method.name,
                "baseline" if method.name == comparison.baseline else nearby(_source(method), beside, Path.cwd()),
                (*(_accuracy(method, kind) if kind else ()), *(_price(method) if priced else ())),
                series,
            )
            for series, method in enumerate(comparison.methods)
        ]
        titles = {"box": "Box AP and price", "mask": "Mask AP", "": "Cost"}
        columns = (("MethodResult", ""), *accuracy, *(_PRICE_HEADS if priced else ()))
        tables.append(Table(titles[kind], tuple(columns), tuple(rows)))
    return tables


def class_tables(comparison: Comparison) -> tuple[list[Table], int]:
    """Box AP of each class as difference to the baseline: the largest, then the rest; and how many are left out.

    The difference is the mean over the seeds that a method shares with the baseline. Classes are in the order of
    their largest difference; ties, and classes without any object, in that of the data.
    """
    baseline, others = comparison.methods[0], comparison.methods[1:]
    others = tuple(method for method in others if method.runs)
    if not baseline.runs or not others:
        return [], 0
    counts = {row["name"]: int(row["objects"]) for row in baseline.runs[0].per_class}
    found = [_class_differences(method, baseline) for method in others]
    order = sorted(counts, key=lambda name: -max(abs(values.get(name) or 0.0) for values in found))
    kept = order[: max(_CLASSES_SHOWN, _CLASS_ENTRIES // len(others))]
    heads = (("Class", ""), ("Objects", ""), *((method.name, "") for method in others))
    rows = [
        Row(
            name,
            "",
            (Entry(f"{counts[name]:,}", key=counts[name]), *(_difference_entry(values.get(name)) for values in found)),
        )
        for name in kept
    ]
    tables = [
        Table(title, heads, tuple(part))
        for title, part in (("Differences to the baseline", rows[:_CLASSES_SHOWN]), ("The rest", rows[_CLASSES_SHOWN:]))
        if part
    ]
    return tables, len(order) - len(kept)


def signed(value: float) -> str:
    """One decimal and a real minus; no sign before a zero."""
    return format_difference(value).replace("-", MINUS)


def _source(method: MethodResult) -> str:
    return "" if method.source == method.name else method.source


def _accuracy_heads(kind: str, baseline: str) -> list[tuple[str, str]]:
    first, *rest = (metric.title for metric in METRICS)
    return [
        (f"{kind.capitalize()} {first}", "points"),
        ("Difference", f"to {baseline}"),
        *((name, "points") for name in rest),
    ]


def _accuracy(method: MethodResult, kind: str) -> list[Entry]:
    first, *rest = (_mean(method, f"{kind}/{metric.key}") for metric in METRICS)
    return [first, _difference(method.difference.get(f"{kind}/AP")), *rest]


def _mean(method: MethodResult, metric: str) -> Entry:
    mean, deviation = method.mean.get(metric), method.deviation.get(metric)
    if mean is None:
        return NONE
    return Entry(f"{mean:.1f}", "" if deviation is None else f"± {deviation:.1f}", mean)


def _difference(found: Difference | None) -> Entry:
    if found is None:
        return NONE
    if found.low is None or found.high is None:
        return Entry(signed(found.mean), "one seed" if found.seeds == 1 else "", found.mean)
    interval = f"{signed(found.low)} to {signed(found.high)}"
    return Entry(signed(found.mean), interval, found.mean, "claimed" if found.claimed else "")


_Reading = Callable[[Cost], float]
_COSTS: tuple[tuple[str, str, float, str, str, _Reading, _Reading], ...] = (
    ("Parameters", "M", 1e6, ".2f", "of it", lambda p: p.parameters, lambda p: p.interpolator_parameters),
    ("Multiply-adds", "G", 1e9, ".2f", "of it", lambda p: p.multiply_adds, lambda p: p.interpolator_multiply_adds),
    ("Forward", "ms", 1.0, ".1f", "of it", lambda p: p.milliseconds, lambda p: p.interpolator_milliseconds),
    ("Peak memory", "MiB", 2.0**20, ".1f", "alone", lambda p: p.peak_bytes, lambda p: p.interpolator_peak_bytes),
)
_PRICE_HEADS = (*((title, unit) for title, unit, *_ in _COSTS), ("Training", "minutes"))


def _price(method: MethodResult) -> list[Entry]:
    entries = [
        NONE
        if method.cost is None
        else Entry(
            format(whole(method.cost) / unit, digits),
            f"{word} {part(method.cost) / unit:{digits}}",
            whole(method.cost),
        )
        for _, _, unit, digits, word, whole, part in _COSTS
    ]
    seconds = COST_COLUMNS[-1].getter(method)
    return [*entries, NONE if seconds is None else Entry(f"{seconds / 60:.1f}", key=seconds)]


def _class_differences(method: MethodResult, baseline: MethodResult) -> dict[str, float]:
    """Mean over shared seeds by class name; without the classes that either of them has no AP of."""
    references = {cell.seed: {row["name"]: row.get("box/AP") for row in cell.per_class} for cell in baseline.runs}
    values: dict[str, list[float]] = {}
    for cell in method.runs:
        for row in cell.per_class:
            reference, own = references.get(cell.seed, {}).get(row["name"]), row.get("box/AP")
            if reference is not None and own is not None:
                values.setdefault(row["name"], []).append(own - reference)
    return {name: statistics.mean(numbers) for name, numbers in values.items()}


def _difference_entry(value: float | None) -> Entry:
    if value is None:
        return NONE
    strength = sum(abs(value) >= step for step in _TONES)
    return Entry(signed(value), key=value, tone=f"{'up' if value > 0 else 'down'}{strength}" if strength else "")
