"""Spread of AP between seeds, precision of the difference, and power: key in files, heading, unit, format and getter.

The table on screen, ``comparison.json``, ``comparison.csv`` and the table of the report iterate over
``SPREAD_COLUMNS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from afictl.comparison.analysis.statistics import seeds_for_power
from afictl.comparison.results import MethodResult

_EXPECTED_POINTS = (0.5, 1.0)
"""True differences for which the necessary seeds are computed."""

SPREAD_NOTE = (
    "Seeds for a true difference: paired t test at 5 % of this method alone with a power of 80 %, if the deviation of"
    " the differences is the observed one; few seeds leave it uncertain."
)


@dataclass(frozen=True)
class SpreadColumn:
    """One number of each method and AP."""

    key: str
    title: str
    unit: str
    format: str
    """Format specification of a float."""
    getter: Callable[[MethodResult, str], float | None]
    """Of a method and a metric such as ``box/AP``; None if it cannot be computed."""

    def text(self, value: float | None) -> str:
        """Format a value; ``-`` for None."""
        return "-" if value is None else format(value, self.format)


def spread_values(method: MethodResult, metric: str) -> Mapping[str, float | None]:
    """Values of all columns by key."""
    return {column.key: column.getter(method, metric) for column in SPREAD_COLUMNS}


def has_spread(method: MethodResult) -> bool:
    """Whether the differences of a method have a deviation."""
    return any(difference.deviation is not None for difference in method.difference.values())


def _of_difference(name: str, method: MethodResult, metric: str) -> float | None:
    value: float | None = getattr(method.difference.get(metric), name, None)
    return value


def _seeds_for(points: float, method: MethodResult, metric: str) -> float | None:
    deviation = _of_difference("deviation", method, metric)
    return None if deviation is None else seeds_for_power(points, deviation)


SPREAD_COLUMNS = (
    SpreadColumn("seeds", "Seeds", "", ".0f", lambda method, _: len(method.runs)),
    SpreadColumn("deviation", "Deviation of AP", "points", ".2f", lambda method, metric: method.deviation.get(metric)),
    SpreadColumn(
        "difference_deviation", "Deviation of the difference", "points", ".2f", partial(_of_difference, "deviation")
    ),
    SpreadColumn("half_width", "Half-width of its interval", "points", ".2f", partial(_of_difference, "half_width")),
    *(
        SpreadColumn(f"seeds_for_{points:g}", f"Seeds for {points:g}", "", ".0f", partial(_seeds_for, points))
        for points in _EXPECTED_POINTS
    ),
)
