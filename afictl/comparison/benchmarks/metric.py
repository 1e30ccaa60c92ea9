"""The COCO metric beside pycocotools: seconds, memory, and the worst difference of all numbers.

Each measurement runs in a process of its own. Both take turns, in the opposite order in every other round, and the
best round of each counts: what else the machine does can only slow one down.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from afictl.comparison.benchmarks import scoring
from afictl.comparison.benchmarks.detections_file import write_detections
from afictl.errors import UserError

Figures = dict[str, Any]
_LIBRARIES = ("pycocotools", "afictl")
_RUN_ALONE = f"import runpy; runpy.run_path({scoring.__file__!r}, run_name='__main__')"
"""As a script: as a module of this package it would import PyTorch for pycocotools too."""


def benchmark_metric(images: int, masks: bool, *, rounds: int, say: Callable[[str], None]) -> Figures:
    """Score generated detections, of boxes and with ``masks`` then of both.

    Args:
        images: with 100 detections each.
        masks: whether to measure masks too.
        rounds: turns of each measurement.
        say: shows a line of progress.

    Returns:
        What ``metric_table`` shows, ready for JSON: ``results`` by what was scored and by library, in seconds and
        megabytes, ``ratio`` and ``worst_difference`` in points of 100.
    """
    with tempfile.TemporaryDirectory(prefix="afictl-benchmark-") as name:
        results = {}
        for kinds in ("box", "box,mask") if masks else ("box",):
            truth, found = write_detections(Path(name), images, masks="mask" in kinds)
            say(f"{kinds}: {truth.stat().st_size / 1e6:.0f} MB of objects, {found.stat().st_size / 1e6:.0f} MB found")
            results[kinds] = _measure(truth, found, kinds, rounds, say)
    return {"images": images, "results": results}


def _measure(truth: Path, found: Path, kinds: str, rounds: int, say: Callable[[str], None]) -> Figures:
    turns: dict[str, list[Figures]] = {library: [] for library in _LIBRARIES}
    for number in range(rounds):
        for library in _LIBRARIES[:: -1 if number % 2 else 1]:
            turns[library].append(_score(library, truth, found, kinds))
            say(f"{library}, {kinds}: {turns[library][-1]['seconds']:.1f} s")
    expected, ours = (turns[library][0]["numbers"] for library in _LIBRARIES)
    best = {library: min(runs, key=lambda run: run["seconds"]) for library, runs in turns.items()}
    for run in best.values():
        run.pop("numbers")
    return {
        **best,
        "ratio": best["pycocotools"]["seconds"] / best["afictl"]["seconds"],
        "numbers": len(expected),
        "worst_difference": _worst(expected, ours),
    }


def _score(library: str, truth: Path, found: Path, kinds: str) -> Figures:
    command = [sys.executable, "-c", _RUN_ALONE, library, str(truth), str(found), kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{library} failed: {' '.join(done.stderr.split()[-30:])}")
    figures: Figures = json.loads(done.stdout)
    return figures


def _worst(reference: dict[str, float | None], ours: dict[str, float | None]) -> float:
    """The largest difference; infinite where only one of them has a number."""
    if reference.keys() != ours.keys():
        return float("inf")
    worst = 0.0
    for name, expected in reference.items():
        value = ours[name]
        if value is None or expected is None:
            worst = max(worst, 0.0 if value is expected else float("inf"))
        else:
            worst = max(worst, abs(value - expected))
    return worst


def metric_table(figures: Figures) -> Table:
    """What ``benchmark_metric`` found."""
    results = figures["results"]
    compared = (
        f"{kinds.replace(',', ' and ')}: {found['numbers']} numbers differ by {found['worst_difference']:.1e} at most"
        for kinds, found in results.items()
    )
    table = Table(
        title=f"COCO metric of {figures['images']} images with 100 detections each",
        caption="\n".join(["seconds from both files to all numbers; MB resident at most, and by imports", *compared]),
    )
    for head in ("scored", "by", "s", "faster", "CPU s", "MB", "imports"):
        table.add_column(head, justify="left" if head in ("scored", "by") else "right", no_wrap=True)
    for kinds, found in results.items():
        for library in _LIBRARIES:
            own = found[library]
            faster = f"{found['ratio']:.1f}x" if library == "afictl" else ""
            times = (f"{own['seconds']:.1f}", faster, f"{own['cpu_seconds']:.1f}")
            table.add_row(kinds.replace(",", ", "), library, *times, f"{own['peak']:.0f}", f"{own['imports']:.0f}")
    return table
