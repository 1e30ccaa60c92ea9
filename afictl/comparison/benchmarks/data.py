"""Reading of annotations and loading of images, beside the libraries that users would take otherwise.

Every measurement runs in a process of its own. The libraries take turns, in the opposite order in every other round,
and the best round of each counts: what else the machine does can only slow one down.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from afictl.comparison.benchmarks import loading, reading
from afictl.comparison.benchmarks.annotation_file import write_annotation_file
from afictl.data.index_cache import SMALLEST, cache_places
from afictl.errors import UserError

Say = Callable[[str], None]
Figures = dict[str, Any]

TOGETHER = 8
"""Processes that start at once."""

_RUN_ALONE = f"import runpy; runpy.run_path({reading.__file__!r}, run_name='__main__')"
"""As a script: as a module of this package it would import PyTorch for every library."""


def benchmark_data(folder: Path | None, split: str, *, scale: float, rounds: int, images: int, say: Say) -> Figures:
    """Measure reading of a generated annotation file and, with a data set, loading of its images.

    Args:
        folder: a data set in COCO layout; None leaves out the loading.
        split: the split of it.
        scale: the generated file's size as a fraction of COCO's.
        rounds: turns of each measurement.
        images: how many a loader reads in a turn.
        say: shows a line of progress.

    Returns:
        What ``tables`` shows, ready for JSON: ``reading`` and ``loading``, by library; megabytes and seconds.

    Raises:
        UserError: a data set that cannot be read, or ``scale`` out of range.
    """
    if folder is not None:
        from afictl.data import load_coco

        masks = load_coco(folder, split).has_masks  # a mistake in --data is told before the long part
    with tempfile.TemporaryDirectory(prefix="afictl-benchmark-") as name:
        read = _reading(Path(name), scale, rounds, say)
    loaded = {}
    if folder is not None:
        for kind in ("boxes", "masks") if masks else ("boxes",):
            loaded[kind] = _loading(folder, split, kind, rounds, images, say)
    return {"reading": read, "loading": loaded}


def _reading(folder: Path, scale: float, rounds: int, say: Say) -> Figures:
    file = folder / "annotations" / "instances_train.json"
    for path in (file.parent, folder / "train"):
        path.mkdir()
    write_annotation_file(file, scale)
    say(f"generated annotations: {file.stat().st_size / 1e6:.0f} MB")
    if file.stat().st_size < SMALLEST:
        say(f"no index is kept of files below {SMALLEST / 1e6:.0f} MB: a later start reads this one again")
    kept = cache_places(file)[0]
    turns: dict[str, list[Figures]] = {}

    def measure(name: str, library: str, processes: int = 1) -> None:
        turns.setdefault(name, []).append(_read(library, file, processes))
        say(f"{name}: {turns[name][-1]['seconds']:.1f} s")

    def measure_ours() -> None:
        kept.unlink(missing_ok=True)
        measure("afictl, first", "afictl")
        measure("afictl, later", "afictl")
        kept.unlink(missing_ok=True)
        measure(f"afictl, first, {TOGETHER} at once", "afictl", TOGETHER)
        measure(f"afictl, later, {TOGETHER} at once", "afictl", TOGETHER)

    others = [lambda name=name: measure(name, name) for name in reading.readers() if name != "afictl"]
    for number in range(rounds):
        for turn in [*others, measure_ours][:: -1 if number % 2 else 1]:
            turn()
    results = {name: min(found, key=lambda figures: figures["seconds"]) for name, found in turns.items()}
    return {"file_megabytes": file.stat().st_size / 1e6, "results": results, "turns": turns}


def _read(library: str, file: Path, processes: int) -> Figures:
    """The figures of the slowest and largest of several processes that read the file at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _RUN_ALONE, library, str(file), str(rank), str(processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        before = [_answer(process) for process in started]
        loaded = _all(started, "load")
        at_rest = _all(started, "memory")
        visited, after = _all(started, "epoch"), _all(started, "memory")
    finally:
        for process in started:
            process.kill()
            process.communicate()
    at_start, at_end = (max(found["own"] for found in answers) for answers in (at_rest, after))
    return {
        "seconds": max(found["seconds"] for found in loaded),
        "cpu_seconds": sum(found["cpu_seconds"] for found in loaded),
        "epoch_seconds": max(found["seconds"] for found in visited),
        "peak": max(found["peak"] for found in loaded),
        "own_before": max(found["own"] for found in before),
        "own": at_start,
        "unshared": max(found["unshared"] for found in after),
        "growth": at_end / at_start - 1 if at_start else 0.0,
    }


def _all(processes: Sequence[subprocess.Popen[str]], word: str) -> list[Figures]:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
    return [_answer(process) for process in processes]


def _answer(process: subprocess.Popen[str]) -> Figures:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise UserError(f"a measured process ended early; run it alone to see why: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]
    answer: Figures = json.loads(line)
    return answer


def _loading(folder: Path, split: str, kind: str, rounds: int, images: int, say: Say) -> Figures:
    """The best images a second of each loader, by its name; without another library's that cannot read the data."""
    best: Figures = {}
    names = loading.loaders(kind == "masks")
    for number in range(rounds):
        for name in names[:: -1 if number % 2 else 1]:
            command = [sys.executable, "-m", loading.__name__, name, str(folder), split, kind, str(images)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
            if done.returncode and name == "afictl":
                raise UserError(f"a measured loader failed; run it alone to see why: {' '.join(command)}")
            if done.returncode:  # detectron2 takes no RLE for polygons
                say(f"{name}, {kind}: failed, and is left out; run it alone to see why: {' '.join(command)}")
                continue
            speed = json.loads(done.stdout)["images_per_second"]
            best[name] = max(best.get(name, 0.0), speed)
            say(f"{name}, {kind}: {speed:.1f} images/s")
    return best


def tables(figures: Figures) -> list[Table]:
    """What ``benchmark_data`` found, each line beside the others of its kind."""
    read = figures["reading"]
    return [_reading_table(read["results"], read["file_megabytes"]), *map(_loading_table, figures["loading"].items())]


def _reading_table(results: Figures, megabytes: float) -> Table:
    table = Table(
        Column(f"annotations, {megabytes:.0f} MB", no_wrap=True),
        title="reading: seconds, and MB of a process",
        caption="own: what reading adds that can be neither shared nor dropped; growth: by an epoch of reads",
    )
    for head in ("s", "faster", "CPU s", "peak", "own", "growth"):
        table.add_column(head, justify="right")
    for name, found in results.items():
        table.add_row(
            name,
            f"{found['seconds']:.2f}",
            f"{results['pycocotools']['seconds'] / found['seconds']:.1f}x",
            f"{found['cpu_seconds']:.2f}",
            f"{found['peak']:.0f}",
            f"{found['own'] - found['own_before']:.0f}",
            f"{100 * found['growth']:.1f} %",
        )
    return table


def _loading_table(item: tuple[str, dict[str, float]]) -> Table:
    kind, speeds = item
    table = Table(
        f"loader, one worker, {kind}", title="loading: images a second, short side 640 to 800, flipped at random"
    )
    for head in ("images/s", "afictl is faster"):
        table.add_column(head, justify="right")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.1f}", f"{speeds['afictl'] / speed:.2f}x")
    table.caption = _loading_caption(list(speeds))
    return table


def _loading_caption(names: list[str]) -> str | None:
    if not find_spec("detectron2"):
        return "detectron2 is not installed here, and not measured"
    if "detectron2 polygons" in names:
        return "polygons, detectron2's default: drawn later, by the training process; all others give bitmaps"
    return None
