"""Verdicts: the sentence that the statistics support for each method, and one for all methods."""

from __future__ import annotations

from collections.abc import Sequence

from afictl.comparison.analysis.settings_summary import UNEQUAL_PREFIX
from afictl.comparison.results import Comparison, Difference, MethodResult
from afictl.evaluation.metrics import KINDS, format_difference, format_points

_MIN_METHODS_FOR_OVERVIEW = 3
_EQUAL_POINTS = 1e-6
"""In points; a narrower interval is zero up to rounding."""
_EQUAL_RATIO = 0.005
"""A ratio nearer to 1 is displayed as equal."""


def verdict_sentence(
    method: MethodResult, baseline: MethodResult, num_tested: int, unequal_keys: Sequence[str] = ()
) -> str:
    """One sentence on a method in comparison with the baseline.

    Args:
        method: method with differences.
        baseline: method that the differences refer to.
        num_tested: number of methods with an interval, among which a difference must be significant.
        unequal_keys: settings that are not equal for all runs.
    """
    differences = {kind: item for kind in KINDS if (item := method.difference.get(f"{kind}/AP"))}
    if not differences:
        return f"{method.name}: nothing can be claimed, as no seed has an AP of both it and {baseline.name}"
    sentence = "; ".join(_clause(kind, item, baseline.name, num_tested) for kind, item in differences.items())
    claimed = [item.claimed for item in differences.values()]
    if cost := _relative_cost(method, baseline):
        sentence += f" for {cost}" if claimed[-1] else f", at {cost}"
    if unequal_keys:
        sentence += f"; but the runs differ in {', '.join(unequal_keys)} too, which may be the cause"
    return f"{method.name}{' ' if claimed[0] else ': '}{sentence}"


def overview_sentences(comparison: Comparison) -> list[str]:
    """One sentence on all methods for boxes and one for masks; empty for fewer than three methods.

    It lists the methods whose difference to the baseline is claimed, and counts the others.
    """
    if comparison.num_tested < _MIN_METHODS_FOR_OVERVIEW:
        return []
    is_unequal = any(key.startswith(UNEQUAL_PREFIX) for key in comparison.settings)
    suffix = "; the runs differ in more than the interpolator" if is_unequal else ""
    sentences = []
    for kind in KINDS:
        differences = {
            method.name: item
            for method in comparison.methods
            if (item := method.difference.get(f"{kind}/AP")) and item.low is not None
        }
        if differences:
            subject = f"{kind} AP of {len(differences)} methods against {comparison.baseline}"
            sentences.append(f"{subject}: {_claims(differences)}{suffix}")
    return sentences


def _claims(differences: dict[str, Difference]) -> str:
    better = [name for name, item in differences.items() if item.claimed and item.mean > 0]
    worse = [name for name, item in differences.items() if item.claimed and item.mean <= 0]
    rest = len(differences) - len(better) - len(worse)
    if rest == len(differences):
        return "no difference can be claimed"
    clauses = [f"{word}: {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    return "; ".join([*clauses, *([f"no difference can be claimed of the other {rest}"] if rest else [])])


def _clause(kind: str, difference: Difference, baseline: str, num_tested: int) -> str:
    amount = format_difference(difference.mean)
    low, high = difference.low, difference.high
    if low is None or high is None:
        return f"nothing can be claimed from one seed ({amount} {kind} AP)"
    interval = f"95 % interval {format_points(low)} to {format_points(high)}, {difference.seeds} seeds"
    if difference.claimed:
        return f"{amount} {kind} AP {'over' if difference.mean > 0 else 'against'} {baseline} ({interval})"
    reason = ""
    if high - low < _EQUAL_POINTS:
        reason = "; equal for every seed, so that there is no variance for a test"
    elif num_tested > 1 and (low > 0 or high < 0):
        reason = f"; too small to be significant among {num_tested} methods"
    return f"no difference in {kind} AP to {baseline} can be claimed ({amount}, {interval}{reason})"


def _relative_cost(method: MethodResult, baseline: MethodResult) -> str:
    """Multiply-adds of the detector relative to those of the baseline; empty if they were not measured."""
    if method.cost is None or baseline.cost is None:
        return ""
    ratio = method.cost.multiply_adds / baseline.cost.multiply_adds
    if abs(ratio - 1) < _EQUAL_RATIO:
        return "the same multiply-adds"
    return f"{ratio:.{1 if ratio >= 1.1 else 2}f}x the multiply-adds"
