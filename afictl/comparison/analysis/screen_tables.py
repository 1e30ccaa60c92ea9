"""Tables and notes of a comparison on screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from afictl.comparison.analysis.cost_columns import COST_COLUMNS, CostColumn, timing_note
from afictl.comparison.analysis.missing_values import absent_metrics, record_faults
from afictl.comparison.analysis.settings_summary import ADDED_SEEDS, UNEQUAL_PREFIX
from afictl.comparison.analysis.spread_columns import SPREAD_COLUMNS, SPREAD_NOTE, has_spread, spread_values
from afictl.comparison.analysis.tuned_scores import tuned_score
from afictl.comparison.analysis.verdicts import overview_sentences
from afictl.comparison.results import Comparison, Difference, MethodResult
from afictl.evaluation.metrics import METRICS, Metric, format_difference, format_points
from afictl.run_folder import COMPARISON

TWO_SEEDS_NOTE = (
    "With two seeds the variance has one degree of freedom and may be small by chance: the true deviation is 0.4 to 32"
    " times the observed one (95 %). Add seeds before relying on a claim or on a number of seeds."
)
_FURTHER_METHODS = "name others in --interpolators or, of finished runs, in --runs"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Tables of origins, of box and mask accuracy, best in bold, of differences, and of costs."""
    methods, kinds = comparison.methods, comparison.kinds
    tables = [_origin_table(methods), *(_accuracy_table(methods, kind) for kind in kinds)]
    if any(method.difference for method in methods):
        tables.append(_difference_table(methods, kinds))
    if any(map(has_spread, methods)):
        tables += [_spread_table(methods, kind) for kind in kinds]
    if any(method.tuning for method in methods):
        tables.append(_tuning_table(methods))
    if any(method.cost for method in methods):
        tables += _cost_tables(methods)
    return tables


def comparison_notes(comparison: Comparison) -> list[str]:
    """Lines below the tables: unequal settings, verdicts, the statistical test, and values that runs lack."""
    lines = [f"{key}: {value}" for key, value in comparison.settings.items() if key.startswith(UNEQUAL_PREFIX)]
    if len(comparison.methods) == 1:
        lines.append(f"{comparison.methods[0].name} is the only method: nothing is compared; {_FURTHER_METHODS}")
    lines += overview_sentences(comparison)
    lines += [method.verdict for method in comparison.methods if method.verdict]
    if tested := comparison.num_tested:
        rule = f" by Holm's rule over {tested} methods" if tested > 1 else ""
        lines.append(
            f"Intervals: 95 %, Student's t, paired by seed; claimed (*): at 5 %{rule}, each metric separately."
            " They cover randomness of training, not of the selection of images."
        )
    if any(map(has_spread, comparison.methods)):
        lines.append(SPREAD_NOTE)
    lines += [f"{key}: {value}" for key, value in comparison.settings.items() if key == ADDED_SEEDS]
    if comparison.has_two_seed_interval:
        lines.append(TWO_SEEDS_NOTE)
    lines += [f"note: {text}" for text in (*absent_metrics(comparison), *record_faults(comparison))]
    lines += filter(None, [busy_machine_note(comparison)])
    return lines


def busy_machine_note(comparison: Comparison) -> str:
    """Note on times that were measured on a busy machine; empty for others."""
    note = timing_note(method.cost.scatter for method in comparison.methods if method.cost)
    return f"{note}: remove {COMPARISON} and give the command again" if note and comparison.cost_basis else note


def _origin_table(methods: Sequence[MethodResult]) -> Table:
    table = _method_table("weights of the interpolator before training")
    table.add_column("origin", overflow="fold")
    for method in methods:
        table.add_row(escape(method.name), escape(method.origin))
    return table


def _accuracy_table(methods: Sequence[MethodResult], kind: str) -> Table:
    means = {metric: [method.mean.get(f"{kind}/{metric.key}") for method in methods] for metric in METRICS}
    measured = {metric: [value for value in values if value is not None] for metric, values in means.items()}
    best = {metric: max(values) for metric, values in measured.items() if values}
    has_deviation = any(value is not None for method in methods for value in method.deviation.values())
    table = _method_table(f"{kind} AP, points of 100" + (": mean (standard deviation)" if has_deviation else ""))
    for metric in best:
        table.add_column(metric.title, justify="right")
    for method in methods:
        table.add_row(escape(method.name), *(_accuracy(method, kind, metric, best[metric]) for metric in best))
    return table


def _accuracy(method: MethodResult, kind: str, metric: Metric, best: float) -> str:
    mean, deviation = (values.get(f"{kind}/{metric.key}") for values in (method.mean, method.deviation))
    text = metric.text(mean) + (f" ({metric.text(deviation)})" if deviation is not None else "")
    return f"[bold]{text}[/bold]" if mean == best else text


def _difference_table(methods: Sequence[MethodResult], kinds: Sequence[str]) -> Table:
    baseline, *candidates = methods
    table = _method_table(f"difference to {escape(baseline.name)} (95 % interval)")
    for kind in kinds:
        table.add_column(f"{kind} AP", justify="right")
    table.add_column("seeds", justify="right")
    for method in candidates:
        differences = [method.difference.get(f"{kind}/AP") for kind in kinds]
        seeds = max((difference.seeds for difference in differences if difference), default=0)
        table.add_row(escape(method.name), *map(_difference, differences), str(seeds))
    return table


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    if difference.low is None or difference.high is None:
        return format_difference(difference.mean)
    interval = f"({format_points(difference.low)} to {format_points(difference.high)})"
    return f"{format_difference(difference.mean)} {interval}{'*' if difference.claimed else ''}"


def _spread_table(methods: Sequence[MethodResult], kind: str) -> Table:
    table = _method_table(f"spread of {kind} AP between seeds, and seeds for a difference (power 80 %)")
    for column in SPREAD_COLUMNS:
        table.add_column(_heading(column.title[0].lower() + column.title[1:]), justify="right")
    for method in methods:
        values = spread_values(method, f"{kind}/AP")
        table.add_row(escape(method.name), *(column.text(values[column.key]) for column in SPREAD_COLUMNS))
    return table


def _tuning_table(methods: Sequence[MethodResult]) -> Table:
    """Box AP of each value of the tuning; the chosen one is marked."""
    tunings = {method.name: method.tuning for method in methods if method.tuning}
    first = next(iter(tunings.values()))
    table = _method_table(f"tuning: box AP on held-out training images by {first.key} (*: chosen)")
    for item in first.values:
        table.add_column(str(item.value), justify="right")
    for name, tuning in tunings.items():
        scores = (tuned_score(item) + "*" * (item.value == tuning.chosen) for item in tuning.values)
        table.add_row(escape(name), *scores)
    return table


def _cost_tables(methods: Sequence[MethodResult]) -> list[Table]:
    """Costs of the detector, and of the interpolator in it."""
    sizes = dict.fromkeys(f"{method.cost.image_hw[1]}x{method.cost.image_hw[0]}" for method in methods if method.cost)
    is_trained = any(method.runs for method in methods)
    columns = [column for column in COST_COLUMNS if column.inference or is_trained]
    part_columns = [column for column in COST_COLUMNS if column.part_getter]
    detector_table = _method_table(
        f"cost of the detector, an image of {', '.join(sizes)} pixels (width x height)", columns
    )
    part_table = _method_table("of which the interpolator", part_columns)
    for method in methods:
        if method.cost:
            detector_table.add_row(escape(method.name), *(column.text(column.getter(method)) for column in columns))
            parts = (column.text(column.part_getter(method)) for column in COST_COLUMNS if column.part_getter)
            part_table.add_row(escape(method.name), *parts)
    return [detector_table, part_table]


def _method_table(title: str, columns: Sequence[CostColumn] = ()) -> Table:
    """A table with one row per method; headings wrap, names do not, so that 80 columns suffice."""
    table = Table(title=title)
    table.add_column("interpolator", no_wrap=True)
    for column in columns:
        table.add_column(_heading(f"{column.unit} {column.title.lower()}"), justify="right")
    return table


def _heading(text: str) -> str:
    """A heading with one word a line."""
    return text.replace(" ", "\n").replace("-", "-\n")
