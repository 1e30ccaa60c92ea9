"""A comparison as tables on screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from afictl.comparison.files import training_seconds
from afictl.comparison.model import Comparison, Difference, Method

_AREAS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Accuracy of boxes, of masks where there are any, and price, as rich tables; the best accuracy is bold."""
    methods = comparison.methods
    tables = [_accuracy_table(methods, kind) for kind in _kinds(methods)]
    return [*tables, _price_table(methods)] if any(method.price for method in methods) else tables


def notes(comparison: Comparison) -> list[str]:
    """What stands under the tables: the verdicts, and how they were reached."""
    verdicts = [method.verdict for method in comparison.methods if method.verdict]
    compared = len(comparison.methods) - 1
    if not any(method.difference for method in comparison.methods):
        return verdicts
    rule = f", by Holm's rule over the {compared} methods" if compared > 1 else ""
    how = f"intervals: 95 %, Student's t over seeds, paired by seed; claimed at 5 %{rule}; AP decides"
    return [*verdicts, how]


def _kinds(methods: Sequence[Method]) -> list[str]:
    return [kind for kind in ("box", "mask") if any(f"{kind}/AP" in method.mean for method in methods)]


def _accuracy_table(methods: Sequence[Method], kind: str) -> Table:
    names = [name for name in _AREAS if any(method.mean.get(f"{kind}/{name}") is not None for method in methods)]
    table = Table("interpolator", title=f"{kind} AP, points of 100: mean (standard deviation over seeds)")
    for name in names:
        table.add_column(name, justify="right")
    compared = len(methods) > 1
    if compared:
        table.add_column(f"AP over {methods[0].name}", justify="right")
    best = {name: max(method.mean.get(f"{kind}/{name}") or 0.0 for method in methods) for name in names}
    for method in methods:
        cells = [_accuracy(method, f"{kind}/{name}", best[name]) for name in names]
        table.add_row(method.name, *cells, *([_difference(method.difference.get(f"{kind}/AP"))] if compared else []))
    return table


def _accuracy(method: Method, metric: str, best: float) -> str:
    mean, deviation = method.mean.get(metric), method.deviation.get(metric)
    if mean is None:
        return "-"
    text = f"{mean:.1f}" + (f" ({deviation:.1f})" if deviation is not None else "")
    return f"[bold]{text}[/bold]" if mean == best else text


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.low is None:
        return f"{difference.mean:+.1f}"
    return f"{difference.mean:+.1f} ({difference.low:.1f} to {difference.high:.1f}){'*' if difference.claimed else ''}"


def _price_table(methods: Sequence[Method]) -> Table:
    table = Table("interpolator", title="price: detector (of it, interpolator), one image")
    for head in ("M parameters", "G multiply-adds", "ms forward", "min training"):
        table.add_column(head, justify="right")
    for method in methods:
        price, seconds = method.price, training_seconds(method)
        if price is None:
            continue
        table.add_row(
            method.name,
            f"{price.parameters / 1e6:.2f} ({price.interpolator_parameters / 1e6:.2f})",
            f"{price.multiply_adds / 1e9:.2f} ({price.interpolator_multiply_adds / 1e9:.2f})",
            f"{price.milliseconds:.1f} ({price.interpolator_milliseconds:.1f})",
            "-" if seconds is None else f"{seconds / 60:.1f}",
        )
    return table
