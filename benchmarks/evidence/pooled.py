"""Difference of two methods over several tables: ``python -m benchmarks.evidence.pooled METHOD BASELINE FILE ...``.

The files are those of ``benchmarks.evidence.table --json``. For each setting it prints the paired difference in box AP,
over all pairs of its files, and then the mean over settings with the interval of Student's t over them: how large the
difference is in a further setting like these. Settings that share a guide are not independent, so that the interval is
rather too narrow.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from afictl.comparison.analysis.statistics import PairedDifference, paired_difference
from afictl.errors import UserError
from benchmarks.evidence.table import read_any_table
from benchmarks.results import run_benchmark, write_results


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the differences."""
    options = _parse(arguments)
    differences = differences_by_setting(options.method, options.baseline, options.files)
    overall = paired_difference([difference.mean for difference in differences.values()])
    for name, difference in {**differences, "mean over settings": overall}.items():
        print(f"{name:24} {_text(difference)}, {difference.count} {'settings' if difference is overall else 'pairs'}")
    write_results(
        options.json,
        {
            "method": options.method,
            "baseline": options.baseline,
            "settings": {name: asdict(difference) for name, difference in differences.items()},
            "mean over settings": asdict(overall),
        },
    )


def differences_by_setting(method: str, baseline: str, files: Sequence[Path]) -> dict[str, PairedDifference]:
    """Paired differences in box AP of ``method`` less ``baseline``, of all tables of a setting together.

    Raises:
        UserError: a file cannot be read, or has no such pairs.
    """
    pairs: dict[str, list[float]] = defaultdict(list)
    for file in files:
        setting, methods = read_any_table(file)
        first, second = methods.get(method, {}), methods.get(baseline, {})
        if not (seeds := sorted(first.keys() & second.keys())):
            raise UserError(f"{file}: has no pair of {method} and {baseline}")
        pairs[setting] += [first[seed]["box/AP"] - second[seed]["box/AP"] for seed in seeds]
    return {setting: paired_difference(values) for setting, values in pairs.items()}


def _text(difference: PairedDifference) -> str:
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.2f}"
    return f"{difference.mean:+.2f} ({difference.low:.2f} to {difference.high:.2f})"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("method")
    parser.add_argument("baseline")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
