"""Benchmark of annotation reading and image loading against pycocotools, torchvision and detectron2.

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
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Column, Table

from afictl.data import load_dataset
from afictl.data.index_cache import MIN_FILE_BYTES, cache_paths
from afictl.errors import UserError
from benchmarks import annotation_reader, image_loader
from benchmarks.annotation_file import write_annotation_file
from benchmarks.results import ROOT, run_benchmark, write_results

Figures = Mapping[str, float]
"""Seconds and megabytes by name."""

_PROCESSES = 8
"""Processes that read the file at once."""


class Reading(TypedDict):
    """Figures of reading by library: of the best round, and of all rounds."""

    file_megabytes: float
    results: dict[str, Figures]
    turns: dict[str, list[Figures]]


def measure_reading(folder: Path, scale: float, rounds: int, console: Console) -> Reading:
    """Read an annotation file of ``scale`` times COCO's size, generated below ``folder``, with each library.

    Raises:
        UserError: ``scale`` outside (0, 1], or a measured process that failed.
    """
    file = folder / "annotations" / "instances_train.json"
    for path in (file.parent, folder / "train"):
        path.mkdir()
    write_annotation_file(file, scale)
    console.print(f"generated annotations: {file.stat().st_size / 1e6:.0f} MB")
    if file.stat().st_size < MIN_FILE_BYTES:
        console.print(f"afictl caches no file below {MIN_FILE_BYTES / 1e6:.0f} MB: later starts read it again")
    cache = cache_paths(file)[0]
    turns: dict[str, list[Figures]] = {}

    def measure(name: str, library: str, processes: int = 1) -> None:
        turns.setdefault(name, []).append(read_annotations(library, file, processes))
        console.print(f"{name}: {turns[name][-1]['seconds']:.1f} s")

    def measure_afictl() -> None:
        for suffix, processes in (("", 1), (f", {_PROCESSES} at once", _PROCESSES)):
            cache.unlink(missing_ok=True)
            measure(f"afictl, first{suffix}", "afictl", processes)
            measure(f"afictl, later{suffix}", "afictl", processes)

    libraries = [lambda name=name: measure(name, name) for name in annotation_reader.readers() if name != "afictl"]
    for number in range(rounds):
        for measure_library in [*libraries, measure_afictl][:: -1 if number % 2 else 1]:
            measure_library()
    best = {name: min(figures, key=lambda figure: figure["seconds"]) for name, figures in turns.items()}
    return {"file_megabytes": file.stat().st_size / 1e6, "results": best, "turns": turns}


def read_annotations(library: str, file: Path, processes: int) -> Figures:
    """Read ``file`` in several processes at once; return the maximum times and sizes.

    Raises:
        UserError: a process failed.
    """
    command = [sys.executable, "-m", annotation_reader.__name__, library, str(file.resolve())]
    readers = [
        subprocess.Popen(
            [*command, str(rank), str(processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        for rank in range(processes)
    ]
    try:
        imports = [_receive(reader) for reader in readers]
        load = _send(readers, "load")
        before = _send(readers, "memory")
        epoch, after = _send(readers, "epoch"), _send(readers, "memory")
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    private_before, private_after = (max(figures["own"] for figures in replies) for replies in (before, after))
    return {
        "seconds": max(figures["seconds"] for figures in load),
        "cpu_seconds": sum(figures["cpu_seconds"] for figures in load),
        "epoch_seconds": max(figures["seconds"] for figures in epoch),
        "peak": max(figures["peak"] for figures in load),
        "own_before": max(figures["own"] for figures in imports),
        "own": private_before,
        "unshared": max(figures["unshared"] for figures in after),
        "growth": private_after / private_before - 1 if private_before else 0.0,
    }


def _send(readers: Sequence[subprocess.Popen[str]], command: str) -> list[Figures]:
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write(f"{command}\n")
        reader.stdin.flush()
    return [_receive(reader) for reader in readers]


def _receive(reader: subprocess.Popen[str]) -> Figures:
    assert reader.stdout is not None
    line = reader.stdout.readline()
    if not line:
        raise UserError(f"a measured process ended early; run it alone: {subprocess.list2cmdline(reader.args)}")  # type: ignore[arg-type]
    figures: Figures = json.loads(line)
    return figures


def measure_loading(
    folder: Path, split: str, kind: str, rounds: int, images: int, console: Console
) -> dict[str, float]:
    """Images per second of each loader that can read the data.

    Args:
        folder: dataset in COCO layout.
        split: split to read.
        kind: ``boxes`` or ``masks``.
        rounds: repetitions.
        images: number of images that each loader reads per round.
        console: console for progress.

    Raises:
        UserError: afictl's loader failed.
    """
    speeds: dict[str, float] = {}
    names = image_loader.loaders(kind == "masks")
    for number in range(rounds):
        for name in names[:: -1 if number % 2 else 1]:
            arguments = [name, str(folder.resolve()), split, kind, str(images)]
            command = [sys.executable, "-m", image_loader.__name__, *arguments]
            process = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, check=False
            )
            if process.returncode and name == "afictl":
                raise UserError(f"a measured loader failed; run it alone: {subprocess.list2cmdline(command)}")
            if process.returncode:  # detectron2 cannot load RLE as polygons
                console.print(f"{name}, {kind}: failed and skipped; run it alone: {subprocess.list2cmdline(command)}")
                continue
            speed = json.loads(process.stdout)["images_per_second"]
            speeds[name] = max(speeds.get(name, 0.0), speed)
            console.print(f"{name}, {kind}: {speed:.1f} images/s")
    return speeds


def reading_table(reading: Reading) -> Table:
    """Table of the best round of each library."""
    table = Table(
        Column(f"annotations, {reading['file_megabytes']:.0f} MB", no_wrap=True),
        title="reading: seconds, and MB of a process",
        caption="private: memory added by reading that cannot be shared or dropped; growth: by an epoch of reads",
    )
    for header in ("s", "faster", "CPU s", "peak", "private", "growth"):
        table.add_column(header, justify="right")
    for name, figures in reading["results"].items():
        table.add_row(
            name,
            f"{figures['seconds']:.2f}",
            f"{reading['results']['pycocotools']['seconds'] / figures['seconds']:.1f}x",
            f"{figures['cpu_seconds']:.2f}",
            f"{figures['peak']:.0f}",
            f"{figures['own'] - figures['own_before']:.0f}",
            f"{100 * figures['growth']:.1f} %",
        )
    return table


def loading_table(kind: str, speeds: Mapping[str, float]) -> Table:
    """Table of the images per second of each loader for ``kind``, ``boxes`` or ``masks``."""
    table = Table(
        f"loader, one worker, {kind}", title="loading: images per second, short side 640 to 800, random flips"
    )
    for header in ("images/s", "afictl is faster"):
        table.add_column(header, justify="right")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.1f}", f"{speeds['afictl'] / speed:.2f}x")
    if not find_spec("detectron2"):
        table.caption = "detectron2 is not installed, so it was not measured"
    elif "detectron2 polygons" in speeds:
        table.caption = "polygons, detectron2's default: rasterised later, in the training process; all others: bitmaps"
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables and write the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotations", description=__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="dataset in COCO layout; without it only reading is measured"
    )
    parser.add_argument("--split", default="train", help="split of --data whose images are loaded")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the annotations as a fraction of COCO's")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions; the best is reported")
    parser.add_argument("--count", type=int, default=200, help="images that each loader reads per round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    console = Console()
    # an invalid --data is an error before the long measurement
    masks = options.data is not None and load_dataset(options.data, options.split).has_masks
    with tempfile.TemporaryDirectory(prefix="afictl-benchmark-") as folder:
        reading = measure_reading(Path(folder), options.scale, options.rounds, console)
    loading = {
        kind: measure_loading(options.data, options.split, kind, options.rounds, options.count, console)
        for kind in (("boxes", "masks") if masks else ("boxes",))
        if options.data is not None
    }
    console.print(reading_table(reading), *(loading_table(*item) for item in loading.items()))
    write_results(options.json, {"reading": reading, "loading": loading})


if __name__ == "__main__":
    run_benchmark(main)
