"""Table of finished runs in Markdown: ``python -m benchmarks.evidence.table SETTING TABLE --baseline METHOD``.

Differences are paired by seed. The baseline may be trained in another setting, as the one with more steps. ``--add``
takes the runs of a table that was trained elsewhere, with a guide and pre-trainings of its own, as further pairs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from afictl.comparison.analysis.statistics import PairedDifference, paired_difference, significant
from afictl.comparison.records import RunResult, read_result
from afictl.errors import UserError
from afictl.run_folder import RESULT
from benchmarks.evidence.commands import Paths
from benchmarks.evidence.methods import TABLES
from benchmarks.evidence.settings import SETTINGS
from benchmarks.results import run_benchmark, write_results

_METRICS = ("box/AP", "box/AP50", "box/AP75", "box/APs")


@dataclass(frozen=True)
class Row:
    """One method of the table."""

    name: str
    """The method."""
    seeds: Mapping[str, Mapping[str, float]]
    """Metrics of each seed; that of an added table has the name of its file before it."""
    difference: PairedDifference | None
    """Box AP above that of the baseline; None for the baseline and with fewer than two seeds in common."""
    claimed: bool
    """Whether the difference is significant at 5 % over all methods of the table (Holm)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON."""
    options = _parse(arguments)
    paths = Paths(options.output, None, None)
    comparison = paths.comparison(SETTINGS[options.setting])
    baseline = read_metrics(paths.comparison(SETTINGS[options.baseline_setting or options.setting]) / options.baseline)
    names = options.interpolators.split(",") if options.interpolators else TABLES[options.table]
    methods = {method: read_metrics(comparison / method) for method in names}
    if options.add and options.baseline_setting:
        raise UserError("--add: its runs have no baseline in another setting; leave out --baseline-setting")
    if options.add:
        added = read_table(options.add, options.setting)
        methods = {method: metrics | added.get(method, {}) for method, metrics in methods.items()}
        baseline |= added.get(options.baseline, {})
    rows = build_rows(methods, baseline, options.baseline if not options.baseline_setting else "")
    name = f"{options.baseline} of {options.baseline_setting}" if options.baseline_setting else options.baseline
    print(f"| | box AP | of the seeds | difference to {name} (95 % interval) | claimed | AP small |")
    print("|---|---:|---|---:|---|---:|")
    for row in rows:
        print(markdown(row))
    write_results(
        options.json, {"setting": options.setting, "baseline": name, "methods": [asdict(row) for row in rows]}
    )


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics by seed of the finished runs of a method.

    Raises:
        UserError: there is none, or a result cannot be read.
    """
    results = [read_result(run) for run in finished_runs(folder)]
    return {str(result.seed): _box_metrics(result) for result in sorted(results, key=lambda result: result.seed)}


def finished_runs(folder: Path) -> list[Path]:
    """The finished runs of a method.

    Raises:
        UserError: there is none.
    """
    runs = sorted(file.parent for file in folder.glob(f"seed*/{RESULT}"))
    if not runs:
        raise UserError(f"{folder}: has no finished run; train the table first: python -m benchmarks.evidence")
    return runs


def read_table(file: Path, setting: str) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics by method and seed of a table that ``--json`` wrote, the seeds with the name of the file before them.

    Raises:
        UserError: unreadable, or the table of another setting.
    """
    recorded, methods = read_any_table(file)
    if recorded != setting:
        raise UserError(f"{file}: setting: a table of {recorded}, not of {setting}")
    return {
        method: {f"{file.stem} {seed}": metrics for seed, metrics in seeds.items()} for method, seeds in methods.items()
    }


def read_any_table(file: Path) -> tuple[str, dict[str, dict[str, dict[str, float]]]]:
    """The setting, and metrics by method and seed, of a table that ``--json`` wrote.

    Raises:
        UserError: unreadable.
    """
    try:
        table = json.loads(file.read_text())
        return table["setting"], {row["name"]: row["seeds"] for row in table["methods"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a table of benchmarks.evidence.table --json ({error!r:.80})") from None


def build_rows(
    methods: Mapping[str, Mapping[str, Mapping[str, float]]],
    baseline: Mapping[str, Mapping[str, float]],
    baseline_name: str,
) -> list[Row]:
    """Rows with the differences to the baseline, which is among the methods unless its name is empty."""
    differences = {
        method: paired_difference([metrics[seed]["box/AP"] - baseline[seed]["box/AP"] for seed in seeds])
        for method, metrics in methods.items()
        if method != baseline_name and len(seeds := sorted(metrics.keys() & baseline.keys())) > 1
    }
    claimed = significant({method: difference.p for method, difference in differences.items()})
    return [Row(method, metrics, differences.get(method), method in claimed) for method, metrics in methods.items()]


def markdown(row: Row) -> str:
    """The row as a line of a Markdown table."""
    points = [metrics["box/AP"] for metrics in row.seeds.values()]
    small = mean(metrics["box/APs"] for metrics in row.seeds.values())
    difference = ""
    if row.difference and row.difference.low is not None and row.difference.high is not None:
        difference = f"{row.difference.mean:+.1f} ({row.difference.low:.1f} to {row.difference.high:.1f})"
    seeds = ", ".join(f"{value:.1f}" for value in points)
    return f"| `{row.name}` | {mean(points):.1f} | {seeds} | {difference} | {'yes' * row.claimed} | {small:.1f} |"


def _box_metrics(result: RunResult) -> dict[str, float]:
    return {name: float(result.metrics.get(name) or 0) for name in _METRICS}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--interpolators", metavar="NAMES", help="fewer methods of the table")
    parser.add_argument("--baseline", default="nearest", metavar="METHOD")
    parser.add_argument("--baseline-setting", choices=SETTINGS, help="default: that of the methods")
    parser.add_argument("--add", type=Path, metavar="FILE", help="--json of a table of the same setting and methods")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
