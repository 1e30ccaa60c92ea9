"""Scores of a tuning as text."""

from __future__ import annotations

from afictl.comparison.results import TunedValue
from afictl.evaluation.metrics import format_points


def tuned_score(item: TunedValue) -> str:
    """Box AP of a value of a tuning, or why there is none."""
    if item.ap is None:
        return "diverged" if item.failure else "-"
    return format_points(item.ap)
