"""Benchmark of the COCO metrics against pycocotools: time, memory, and the largest difference of all metrics.

Every measurement runs in a separate process. The libraries alternate, in reverse order in every second round, and the
best round of each is reported, as other load on the machine can only slow a library down.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from afictl.errors import UserError
from benchmarks import metric_scorer
from benchmarks.detections_file import DETECTIONS, write_detections
from benchmarks.metric_scorer import Metrics
from benchmarks.results import ROOT, run_benchmark, write_results

_LIBRARIES = ("pycocotools", "afictl")

Figures = dict[str, Any]
"""JSON values: seconds, megabytes and metrics of a library, or a comparison of both."""


def compare_libraries(ground_truth: Path, predictions: Path, kinds: str, rounds: int, console: Console) -> Figures:
    """Score ``kinds``, ``box`` or ``box,mask``, with both libraries.

    Returns:
        The best round of each by its name, ``ratio`` of their seconds, the count of ``numbers`` and their
        ``worst_difference`` in points of 100.

    Raises:
        UserError: a library failed.
    """
    turns: dict[str, list[Figures]] = {library: [] for library in _LIBRARIES}
    for number in range(rounds):
        for library in _LIBRARIES[:: -1 if number % 2 else 1]:
            turns[library].append(_score(library, ground_truth, predictions, kinds))
            console.print(f"{library}, {kinds}: {turns[library][-1]['seconds']:.1f} s")
    expected, actual = (turns[library][0]["numbers"] for library in _LIBRARIES)
    best = {library: min(figures, key=lambda figure: figure["seconds"]) for library, figures in turns.items()}
    for figures in best.values():
        figures.pop("numbers")
    return {
        **best,
        "ratio": best["pycocotools"]["seconds"] / best["afictl"]["seconds"],
        "numbers": len(expected),
        "worst_difference": max_difference(expected, actual),
    }


def _score(library: str, ground_truth: Path, predictions: Path, kinds: str) -> Figures:
    files = [str(file.resolve()) for file in (ground_truth, predictions)]
    command = [sys.executable, "-m", metric_scorer.__name__, library, *files, kinds]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if process.returncode:
        raise UserError(f"{library} failed: {' '.join(process.stderr.split()[-30:])}")
    figures: Figures = json.loads(process.stdout)
    return figures


def max_difference(expected: Metrics, actual: Metrics) -> float:
    """Largest absolute difference; infinite if a metric is missing or None in only one of them."""
    if expected.keys() != actual.keys():
        return float("inf")
    difference = 0.0
    for name, reference in expected.items():
        value = actual[name]
        if value is None or reference is None:
            difference = max(difference, 0.0 if value is reference else float("inf"))
        else:
            difference = max(difference, abs(value - reference))
    return difference


def metric_table(images: int, results: Mapping[str, Figures]) -> Table:
    """Table of ``compare_libraries`` by kinds."""
    differences = (
        f"{kinds.replace(',', ' and ')}: {figures['numbers']} metrics differ by "
        f"at most {figures['worst_difference']:.1e}"
        for kinds, figures in results.items()
    )
    caption = "s: from the files to all metrics; MB: peak resident memory, and that of the imports"
    table = Table(
        title=f"COCO metric of {images} images with {DETECTIONS} detections each",
        caption="\n".join([caption, *differences]),
    )
    for header in ("scored", "by", "s", "faster", "CPU s", "MB", "imports"):
        table.add_column(header, justify="left" if header in ("scored", "by") else "right", no_wrap=True)
    for kinds, figures in results.items():
        for library in _LIBRARIES:
            values = figures[library]
            faster = f"{figures['ratio']:.1f}x" if library == "afictl" else ""
            times = (f"{values['seconds']:.1f}", faster, f"{values['cpu_seconds']:.1f}")
            memory = (f"{values['peak']:.0f}", f"{values['imports']:.0f}")
            table.add_row(kinds.replace(",", ", "), library, *times, *memory)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Score generated detections, print a table and write the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metric", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help=f"generated images, with {DETECTIONS} detections each")
    parser.add_argument("--masks", action="store_true", help="also measure boxes with masks")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions; the best is reported")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    console, results = Console(), {}
    with tempfile.TemporaryDirectory(prefix="afictl-benchmark-") as folder:
        for kinds in ("box", "box,mask") if options.masks else ("box",):
            ground_truth, predictions = write_detections(Path(folder), options.count, masks="mask" in kinds)
            sizes = [f"{file.stat().st_size / 1e6:.0f} MB" for file in (ground_truth, predictions)]
            console.print(f"{kinds}: {sizes[0]} of annotations, {sizes[1]} of detections")
            results[kinds] = compare_libraries(ground_truth, predictions, kinds, options.rounds, console)
    console.print(metric_table(options.count, results))
    write_results(options.json, {"images": options.count, "results": results})


if __name__ == "__main__":
    run_benchmark(main)
