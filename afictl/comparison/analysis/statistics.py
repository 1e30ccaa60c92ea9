"""Statistics over few seeds: standard deviation, paired differences with intervals, significance, and power."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEVEL = 0.05
_POWER = 0.8
_MANY_SEEDS = 1000
"""Above this number quantiles of Student's t, computed by sums over degrees of freedom, take long."""
_ROUNDING_ERROR = 1e-9
"""In points of AP; smaller deviations are rounding errors."""


@dataclass(frozen=True)
class PairedDifference:
    """Mean of differences, its 95 % interval and its p-value."""

    mean: float
    low: float | None
    high: float | None
    """None with fewer than two differences."""
    p: float | None
    """Two-sided p-value of Student's t test; None also where all differences are equal."""
    count: int
    deviation: float | None = None
    """Sample standard deviation of the differences; None with fewer than two."""


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None with fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Student's t test over differences, one for each seed; at least one."""
    mean, count = statistics.fmean(differences), len(differences)
    standard_deviation = deviation(differences)
    if standard_deviation is None:
        return PairedDifference(mean, None, None, None, count)
    error = standard_deviation / math.sqrt(count)
    half = half_width(differences)
    p = t_tail(abs(mean) / error, count - 1) if standard_deviation > _ROUNDING_ERROR else None
    return PairedDifference(mean, mean - half, mean + half, p, count, standard_deviation)


def half_width(differences: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of at least two differences."""
    count = len(differences)
    return t_quantile(1 - _LEVEL / 2, count - 1) * statistics.stdev(differences) / math.sqrt(count)


def significant(p_values: Mapping[str, float | None]) -> set[str]:
    """Names whose difference is significant at 5 % in a simultaneous test of all, by Holm's step-down rule.

    Of the m p-values the k-th smallest, counted from 0, is compared with 5 % / (m - k), up to the first that is larger
    (Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979).
    """
    ascending = sorted((p, name) for name, p in p_values.items() if p is not None)
    names: set[str] = set()
    for k, (p, name) in enumerate(ascending):
        if p > _LEVEL / (len(ascending) - k):
            break
        names.add(name)
    return names


def seeds_for_power(mean: float, standard_deviation: float) -> int | None:
    """Seeds with which a paired t test at 5 % detects a true difference with a power of 80 %.

    The smallest n >= 3 with (t(0.975, n - 1) + t(0.8, n - 1)) sd / sqrt(n) <= ``mean``, which replaces the quantile of
    the noncentral t distribution by a sum of two quantiles of Student's t. The result equals printed tables of the
    exact test, except that with three seeds the power may be 1 % less; two are not offered, where it is worse.

    Args:
        mean: true mean of the differences, above 0.
        standard_deviation: true standard deviation of the differences.

    Returns:
        The number of seeds; None for a deviation of zero, which no test can use.
    """
    if standard_deviation < _ROUNDING_ERROR:
        return None
    effect, normal = mean / standard_deviation, statistics.NormalDist()
    quantile = normal.inv_cdf(1 - _LEVEL / 2)
    least = ((quantile + normal.inv_cdf(_POWER)) / effect) ** 2  # for a known deviation
    if least > _MANY_SEEDS:
        return math.ceil(
            least + quantile**2 / 2
        )  # the same up to rounding: Guenther, The American Statistician 35, 1981
    count = max(3, math.ceil(least))
    while t_quantile(1 - _LEVEL / 2, count - 1) + t_quantile(_POWER, count - 1) > effect * math.sqrt(count):
        count += 1
    return count


def t_tail(t: float, degrees: int) -> float:
    """Probability that |T| > ``t`` >= 0 for Student's T of ``degrees`` degrees of freedom.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4, which are exact for integer degrees of freedom.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = total = 0.0
    for power in range(odd, degrees - 1, 2):
        term = term * cosine**2 * (power - 1) / power if power > odd else (cosine if odd else 1.0)
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - within)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t of ``degrees`` degrees of freedom at ``probability`` > 0.5, by bisection."""
    tail, low, high = 2 * (1 - probability), 0.0, 1.0
    while t_tail(high, degrees) > tail:
        low, high = high, 2 * high
    for _ in range(100):  # until the interval is one floating-point number
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > tail else (low, middle)
    return high
