"""The costs of a method: key in files, heading, unit, number format and getter of each in one place.

A new cost is one more entry of ``COST_COLUMNS``: the tables on screen, ``comparison.json``, ``comparison.csv``, the
report's table and its scatter plot take it from there, as they take accuracy from ``evaluation.metrics.METRICS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from afictl.comparison.results import MethodResult

Getter = Callable[[MethodResult], float | None]
"""Returns a number in base units, as files hold it; None where it was not measured."""


@dataclass(frozen=True)
class CostColumn:
    """One cost of each method."""

    key: str
    title: str
    """Column heading, and name of the axis of the scatter plot."""
    unit: str
    format: str
    """Format specification, such as ``.1f``."""
    getter: Getter
    scale: float = 1.0
    """Base units in a ``unit``; numbers are divided by it for display."""
    part_getter: Getter | None = None
    """The interpolator's part; its key is ``interpolator_`` and ``key``."""
    part_label: str = "of it"
    inference: bool = True
    """A cost of inference, not of training: a cost in ``comparison.json`` and an axis of the scatter plot."""

    def text(self, value: float | None) -> str:
        """The value as in tables, in ``unit``; ``-`` for None."""
        return "-" if value is None else format(value / self.scale, self.format)


def _measured(
    key: str, title: str, unit: str, format: str, scale: float = 1.0, part_label: str = "of it"
) -> CostColumn:
    """A column for the attribute ``key`` of ``Cost``; its part is ``interpolator_`` and ``key``."""

    def get(method: MethodResult, name: str = key) -> float | None:
        value: float | None = getattr(method.cost, name) if method.cost else None
        return value

    return CostColumn(
        key, title, unit, format, get, scale, lambda method: get(method, f"interpolator_{key}"), part_label
    )


def _mean_training_seconds(method: MethodResult) -> float | None:
    """Mean over the runs that recorded their time."""
    seconds = [run.training_seconds for run in method.runs if run.training_seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


COST_COLUMNS = (
    _measured("parameters", "Parameters", "M", ".2f", 1e6),
    _measured("multiply_adds", "Multiply-adds", "G", ".2f", 1e9),
    _measured("milliseconds", "Forward time", "ms", ".1f"),
    _measured("peak_bytes", "Peak memory", "MiB", ".1f", 2.0**20, part_label="alone"),
    CostColumn("training_seconds", "Training", "min", ".1f", _mean_training_seconds, scale=60, inference=False),
)
