"""Points of AP as tables and verdicts write them: to one tenth, and without a sign where that is nothing."""

from __future__ import annotations


def tenths(points: float) -> str:
    """A value, such as ``41.3``."""
    text = f"{points:.1f}"
    return text if float(text) else "0.0"


def signed(points: float) -> str:
    """A difference with its sign, such as ``+1.2``."""
    text = f"{points:+.1f}"
    return text if float(text) else "0.0"
