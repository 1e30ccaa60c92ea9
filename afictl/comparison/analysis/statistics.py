"""What can be said from a few seeds: means, deviations, paired differences, and which of them to claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEVEL = 0.05
_EQUAL = 1e-9
"""Points of AP; deviations below it are errors of rounding."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean of differences, its 95 % interval, and how probable one as large is by chance alone."""

    mean: float
    low: float | None
    high: float | None
    """None with fewer than two differences, which say nothing about chance."""
    p: float | None
    """Two-sided p-value of Student's t test; None also where all differences are equal, which leave no spread."""
    count: int


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None with fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Student's t over differences, one for each seed; there must be one at least."""
    mean, count = statistics.fmean(differences), len(differences)
    spread = deviation(differences)
    if spread is None:
        return PairedDifference(mean, None, None, None, count)
    error = spread / math.sqrt(count)
    half = error * t_quantile(1 - _LEVEL / 2, count - 1)
    p = t_tail(abs(mean) / error, count - 1) if spread > _EQUAL else None
    return PairedDifference(mean, mean - half, mean + half, p, count)


def claims(p_values: Mapping[str, float | None]) -> set[str]:
    """The names of those that stay significant at 5 % when all are tested at once, by Holm's step-down rule.

    Of the m that have a p-value the k-th smallest, counted from 0, is held against 5 % / (m - k), up to the first that
    fails (Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979).
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    kept: set[str] = set()
    for rank, (p, name) in enumerate(known):
        if p > _LEVEL / (len(known) - rank):
            break
        kept.add(name)
    return kept


def t_tail(t: float, freedom: int) -> float:
    """Probability that Student's t of ``freedom`` degrees is farther from zero than ``t`` >= 0, on either side.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4, which are exact for whole degrees of freedom.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = total = 0.0
    for power in range(odd, freedom - 1, 2):
        term = term * cosine**2 * (power - 1) / power if power > odd else (cosine if odd else 1.0)
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - within)


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t of ``freedom`` degrees stays below with ``probability`` > 0.5."""
    tail, low, high = 2 * (1 - probability), 0.0, 1.0
    while t_tail(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(100):  # halves the interval until it is one number
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > tail else (low, middle)
    return high
