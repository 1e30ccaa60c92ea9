"""Costs of a method: key in files, heading, unit, number format and getter.

A new cost is one more entry of ``COST_COLUMNS``, over which the tables on screen, ``comparison.json``,
``comparison.csv``, the table of the report and its scatter plot iterate (``evaluation.metrics.METRICS`` for accuracy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from afictl.comparison.results import MethodResult

_MAX_SCATTER = 0.1
"""Of repeated times; on an idle machine about 0.03."""
Getter = Callable[[MethodResult], float | None]
"""Returns a number in the base units of the files; None if it was not measured."""


@dataclass(frozen=True)
class CostColumn:
    """One cost of each method."""

    key: str
    title: str
    """Column heading, and axis label of the scatter plot."""
    unit: str
    format: str
    """Format specification of a float, such as ``.1f`` or ``.0f``."""
    getter: Getter
    scale: float = 1.0
    """Base units per ``unit``."""
    part_getter: Getter | None = None
    """Cost of the interpolator, with the key ``interpolator_KEY``."""
    part_label: str = "of it"
    inference: bool = True
    """Whether it is a cost of inference, part of ``price`` in ``comparison.json`` and an axis of the scatter plot."""

    def text(self, value: float | None) -> str:
        """Format a value in ``unit``; ``-`` for None."""
        return "-" if value is None else format(value / self.scale, self.format)


def _inference_cost(
    key: str, title: str, unit: str, format: str, scale: float = 1.0, part_label: str = "of it"
) -> CostColumn:
    """Column of the attributes ``key`` and ``interpolator_KEY`` of ``Cost``."""

    def get(method: MethodResult, name: str = key) -> float | None:
        value: float | None = getattr(method.cost, name) if method.cost else None
        return value

    return CostColumn(
        key, title, unit, format, get, scale, lambda method: get(method, f"interpolator_{key}"), part_label
    )


def _mean_training_seconds(method: MethodResult) -> float | None:
    """Mean over the runs with a recorded time."""
    seconds = [run.training_seconds for run in method.runs if run.training_seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


COST_COLUMNS = (
    _inference_cost("parameters", "Parameters", "M", ".2f", 1e6),
    _inference_cost("multiply_adds", "Multiply-adds", "G", ".2f", 1e9),
    _inference_cost("milliseconds", "Forward time", "ms", ".1f"),
    _inference_cost("peak_bytes", "Peak memory", "MiB", ".1f", 2.0**20, part_label="alone"),
    CostColumn("training_seconds", "Training", "min", ".1f", _mean_training_seconds, scale=60, inference=False),
)


def timing_note(scatters: Iterable[float]) -> str:
    """Note on times that scatter as on a busy machine, from the values of ``time_scatter``; empty for others."""
    largest = max(scatters, default=0.0)
    if largest <= _MAX_SCATTER:
        return ""
    return (
        f"Times are uncertain: equal computations differ by {largest:.0%} (interquartile range), as on a busy"
        " machine; measure again on an idle one"
    )
