"""What a comparison allows to be said, in one sentence a method."""

from __future__ import annotations

from collections.abc import Sequence

from afictl.comparison.model import Difference, Method


def verdict(method: Method, baseline: Method, compared: int, differing: Sequence[str] = ()) -> str:
    """One sentence about a method against the baseline.

    Args:
        method: with its differences.
        baseline: what they are taken from.
        compared: how many methods are compared with the baseline; a difference must stand out among as many.
        differing: conditions that were not the same for all.
    """
    found = [(kind, method.difference[f"{kind}/AP"]) for kind in ("box", "mask") if f"{kind}/AP" in method.difference]
    if not found:
        return f"{method.name}: no seed in common with {baseline.name}, so nothing can be claimed"
    parts = [_said(kind, difference, baseline.name, compared) for kind, difference in found]
    sentence = f"{method.name} {'; '.join(parts)}{_for_price(method, baseline)}"
    if differing:
        sentence += f"; but the runs also differ in {', '.join(differing)}, which may be the cause"
    return sentence


def _said(kind: str, difference: Difference, baseline: str, compared: int) -> str:
    amount = f"{difference.mean:+.1f}"
    if difference.low is None or difference.high is None:
        return f"{amount} {kind} AP against {baseline}: nothing can be claimed from one seed"
    interval = f"95 % interval {difference.low:.1f} to {difference.high:.1f}, {difference.seeds} seeds"
    if difference.claimed:
        return f"{amount} {kind} AP {'over' if difference.mean > 0 else 'against'} {baseline} ({interval})"
    alone = difference.low > 0 or difference.high < 0
    reason = f"; not enough among {compared} methods" if alone and compared > 1 else ""
    return f"no difference in {kind} AP to {baseline} can be claimed ({amount}, {interval}{reason})"


def _for_price(method: Method, baseline: Method) -> str:
    """The work of the whole detector against the baseline's."""
    if method.price is None or baseline.price is None or not baseline.price.multiply_adds:
        return ""
    ratio = method.price.multiply_adds / baseline.price.multiply_adds
    if abs(ratio - 1) < 0.005:
        return " for the same multiply-adds"
    return f" for {ratio:.{1 if ratio >= 1.1 else 2}f}x the multiply-adds"
