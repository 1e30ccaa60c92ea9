"""A comparison as tables on screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from afictl.comparison.analysis.comparison_files import mean_training_seconds
from afictl.comparison.analysis.settings_summary import UNEQUAL_PREFIX
from afictl.comparison.analysis.verdicts import overview_sentences
from afictl.comparison.results import Comparison, Difference, MethodResult
from afictl.evaluation.metrics import METRICS, format_difference, format_points


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Accuracy of boxes, of masks where there are any, differences and prices; the best accuracy is bold."""
    methods = comparison.methods
    kinds = [kind for kind in ("box", "mask") if any(f"{kind}/AP" in method.mean for method in methods)]
    tables = [_accuracy_table(methods, kind) for kind in kinds]
    if any(method.difference for method in methods):
        tables.append(_difference_table(methods, kinds))
    if any(method.cost for method in methods):
        tables += _price_tables(methods)
    return tables


TWO_SEEDS_NOTE = (
    "Two seeds judge the spread by a single number, which luck can make small: add seeds before relying on a claim."
)


def comparison_notes(comparison: Comparison) -> list[str]:
    """What stands under the tables: unequal conditions, the verdicts on all and on each, how they were reached."""
    lines = [f"{key}: {value}" for key, value in comparison.settings.items() if key.startswith(UNEQUAL_PREFIX)]
    if len(comparison.methods) == 1:
        lines.append(f"{comparison.methods[0].name} alone: nothing is compared")
    lines += overview_sentences(comparison)
    lines += [method.verdict for method in comparison.methods if method.verdict]
    if judged := comparison.num_tested:
        rule = f" by Holm's rule over {judged} methods" if judged > 1 else ""
        lines.append(
            f"Intervals: 95 %, Student's t, paired by seed; claimed (*): at 5 %{rule}, each metric by itself."
            " They cover chance in training, not in the choice of the images."
        )
    if comparison.has_two_seed_interval:
        lines.append(TWO_SEEDS_NOTE)
    return lines


def _accuracy_table(methods: Sequence[MethodResult], kind: str) -> Table:
    names = [
        metric.key
        for metric in METRICS
        if any(method.mean.get(f"{kind}/{metric.key}") is not None for method in methods)
    ]
    several = any(value is not None for method in methods for value in method.deviation.values())
    title = f"{kind} AP, points of 100" + (": mean (standard deviation)" if several else "")
    table = _named(title)
    for name in names:
        table.add_column(name, justify="right")
    best = {name: max(method.mean.get(f"{kind}/{name}") or 0.0 for method in methods) for name in names}
    for method in methods:
        table.add_row(escape(method.name), *(_accuracy(method, f"{kind}/{name}", best[name]) for name in names))
    return table


def _accuracy(method: MethodResult, metric: str, best: float) -> str:
    mean, deviation = method.mean.get(metric), method.deviation.get(metric)
    if mean is None:
        return "-"
    text = f"{mean:.1f}" + (f" ({deviation:.1f})" if deviation is not None else "")
    return f"[bold]{text}[/bold]" if mean == best else text


def _difference_table(methods: Sequence[MethodResult], kinds: Sequence[str]) -> Table:
    baseline, *others = methods
    table = _named(f"over {escape(baseline.name)} (95 % interval)")
    for kind in kinds:
        table.add_column(f"{kind} AP", justify="right")
    table.add_column("seeds", justify="right")
    for method in others:
        found = [method.difference.get(f"{kind}/AP") for kind in kinds]
        seeds = max((difference.seeds for difference in found if difference), default=0)
        table.add_row(escape(method.name), *map(_difference, found), str(seeds))
    return table


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    if difference.low is None or difference.high is None:
        return format_difference(difference.mean)
    return (
        f"{format_difference(difference.mean)} ({format_points(difference.low)} to {format_points(difference.high)})"
        f"{'*' if difference.claimed else ''}"
    )


def _price_tables(methods: Sequence[MethodResult]) -> list[Table]:
    """Of the whole detector and of the interpolator in it."""
    sizes = dict.fromkeys(f"{price.image_hw[1]}x{price.image_hw[0]}" for each in methods if (price := each.cost))
    trained = any(method.runs for method in methods)
    whole = _numbers(
        f"price of the detector, an image of {', '.join(sizes)} pixels (width x height)",
        ["min training"] if trained else [],
    )
    inside = _numbers("of it, the interpolator", [])
    for method in methods:
        if (price := method.cost) is None:
            continue
        seconds = mean_training_seconds(method)
        minutes = ["-" if seconds is None else f"{seconds / 60:.1f}"] if trained else []
        whole.add_row(
            escape(method.name),
            f"{price.parameters / 1e6:.2f}",
            f"{price.multiply_adds / 1e9:.2f}",
            f"{price.milliseconds:.1f}",
            f"{price.peak_bytes / 2**20:.1f}",
            *minutes,
        )
        inside.add_row(
            escape(method.name),
            f"{price.interpolator_parameters / 1e6:.2f}",
            f"{price.interpolator_multiply_adds / 1e9:.2f}",
            f"{price.interpolator_milliseconds:.1f}",
            f"{price.interpolator_peak_bytes / 2**20:.1f}",
        )
    return [whole, inside]


def _named(title: str) -> Table:
    """A table of methods, whose names stay whole on a narrow terminal."""
    table = Table(title=title)
    table.add_column("interpolator", no_wrap=True)
    return table


def _numbers(title: str, further: Sequence[str]) -> Table:
    table = _named(title)
    for head in ("M parameters", "G multiply-adds", "ms forward", "MiB peak", *further):
        table.add_column(head.replace(" ", "\n"), justify="right")  # narrow enough for 80 columns
    return table
