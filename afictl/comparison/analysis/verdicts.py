"""What a comparison allows to be said: in one sentence a method, and of many methods together."""

from __future__ import annotations

from collections.abc import Sequence

from afictl.comparison.analysis.settings_summary import UNEQUAL_PREFIX
from afictl.comparison.results import Comparison, Difference, MethodResult
from afictl.evaluation.metrics import format_difference, format_points

_MANY = 3  # methods whose verdicts are easier read after one sentence about all of them


def verdict_sentence(method: MethodResult, baseline: MethodResult, compared: int, differing: Sequence[str] = ()) -> str:
    """One sentence about a method against the baseline.

    Args:
        method: with its differences.
        baseline: what they are taken from.
        compared: how many methods have an interval; a difference must stand out among as many.
        differing: conditions that were not the same for all.
    """
    found = {kind: method.difference[f"{kind}/AP"] for kind in ("box", "mask") if f"{kind}/AP" in method.difference}
    if not found:
        return f"{method.name}: nothing can be claimed, as no seed has an AP of both it and {baseline.name}"
    said = "; ".join(_said(kind, difference, baseline.name, compared) for kind, difference in found.items())
    price = _price(method, baseline)
    if price:
        said += f" for {price}" if next(reversed(found.values())).claimed else f", at {price}"
    if differing:
        said += f"; but the runs differ in {', '.join(differing)} too, which may be the cause"
    return f"{method.name}{' ' if next(iter(found.values())).claimed else ': '}{said}"


def overview_sentences(comparison: Comparison) -> list[str]:
    """One sentence about all methods for boxes and one for masks; none where the methods are few.

    It names those whose difference to the baseline is claimed, and counts those of which that cannot be said.
    """
    if comparison.num_tested < _MANY:
        return []
    alike = not any(key.startswith(UNEQUAL_PREFIX) for key in comparison.settings)
    sentences = []
    for kind in ("box", "mask"):
        named = {method.name: method.difference.get(f"{kind}/AP") for method in comparison.methods}
        found = {name: difference for name, difference in named.items() if difference and difference.low is not None}
        if not found:
            continue
        better = [name for name, difference in found.items() if difference.claimed and difference.mean > 0]
        worse = [name for name, difference in found.items() if difference.claimed and difference.mean <= 0]
        rest = len(found) - len(better) - len(worse)
        if rest == len(found):
            said = "no difference can be claimed"
        else:
            said = "; ".join(
                [f"{word}: {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
                + ([f"no difference can be claimed of the other {rest}"] if rest else [])
            )
        doubt = "" if alike else "; the runs differ in more than the interpolator"
        sentences.append(f"{kind} AP of {len(found)} methods against {comparison.baseline}: {said}{doubt}")
    return sentences


def _said(kind: str, difference: Difference, baseline: str, compared: int) -> str:
    amount = format_difference(difference.mean)
    if difference.low is None or difference.high is None:
        return f"nothing can be claimed from one seed ({amount} {kind} AP)"
    interval = (
        f"95 % interval {format_points(difference.low)} to {format_points(difference.high)}, {difference.seeds} seeds"
    )
    if difference.claimed:
        return f"{amount} {kind} AP {'over' if difference.mean > 0 else 'against'} {baseline} ({interval})"
    alone = difference.low > 0 or difference.high < 0
    reason = f"; too little to stand out among {compared} methods" if alone and compared > 1 else ""
    if difference.high - difference.low < 1e-6:  # but for rounding
        reason = "; the same for every seed, which leaves no spread to judge it by"
    return f"no difference in {kind} AP to {baseline} can be claimed ({amount}, {interval}{reason})"


def _price(method: MethodResult, baseline: MethodResult) -> str:
    """The work of the whole detector against the baseline's; empty where it is not known."""
    if method.cost is None or baseline.cost is None:
        return ""
    ratio = method.cost.multiply_adds / baseline.cost.multiply_adds
    if abs(ratio - 1) < 0.005:
        return "the same multiply-adds"
    return f"{ratio:.{1 if ratio >= 1.1 else 2}f}x the multiply-adds"
