"""Annotations of a large dataset: ``python -m benchmarks.scale``.

Writes a COCO file of boxes of the size of Objects365 to a temporary folder (5 GB, and half as much for its index), and
reads it in separate processes: a first start, a later one, which reads the index, and an epoch of the annotations of
all images, without pixels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from afictl.data.index_cache import cache_paths
from afictl.files import name_file_in_errors
from benchmarks.annotations import Figures, read_annotations
from benchmarks.results import run_benchmark, write_results

_CATEGORIES = 365
_WIDTH, _HEIGHT = 640, 480
_CHUNK_BOXES = 100_000


def write_box_file(file: Path, images: int, boxes: int, seed: int = 0) -> None:
    """Write annotations of ``images`` images, which are not written, with ``boxes`` boxes of random images."""
    generator = np.random.default_rng(seed)
    with name_file_in_errors(file), open(file, "w", encoding="ascii", newline="\n") as output:
        output.write('{"images": [')
        for start in range(0, images, _CHUNK_BOXES):
            records = _image_records(start, min(start + _CHUNK_BOXES, images))
            output.write("," * (start > 0) + ",".join(records))
        output.write('],"annotations": [')
        for start in range(0, boxes, _CHUNK_BOXES):
            records = _box_records(generator, start, min(_CHUNK_BOXES, boxes - start), images)
            output.write("," * (start > 0) + ",".join(records))
        categories = [{"id": k, "name": f"class {k}"} for k in range(1, _CATEGORIES + 1)]
        output.write(f'],"categories": {json.dumps(categories)}}}')


def _image_records(start: int, end: int) -> Iterator[str]:
    return (
        f'{{"id":{k + 1},"file_name":"images/v1/patch{k % 50}/objects365_v1_{k:08d}.jpg",'
        f'"height":{_HEIGHT},"width":{_WIDTH}}}'
        for k in range(start, end)
    )


def _box_records(generator: np.random.Generator, start: int, count: int, images: int) -> Iterator[str]:
    sizes = np.clip(generator.lognormal(3.6, 0.9, (count, 2)), 4, 300)
    corners = generator.random((count, 2)) * ((_WIDTH, _HEIGHT) - sizes)
    boxes = np.concatenate((corners, sizes), axis=1).round(2).tolist()
    areas = sizes.prod(axis=1).round(2).tolist()
    image_ids = generator.integers(1, images + 1, count).tolist()
    category_ids = generator.integers(1, _CATEGORIES + 1, count).tolist()
    rows = zip(range(start + 1, start + count + 1), image_ids, category_ids, areas, boxes, strict=True)
    for number, image, category, area, (x, y, width, height) in rows:
        yield (
            f'{{"id":{number},"image_id":{image},"category_id":{category},"iscrowd":0,"isfake":0,"area":{area},'
            f'"bbox":[{x},{y},{width},{height}]}}'
        )


def measure(folder: Path, images: int, boxes: int, console: Console) -> dict[str, Figures]:
    """Figures of the two starts by name."""
    file = folder / "annotations" / "instances_train.json"
    for path in (file.parent, folder / "train"):
        path.mkdir()
    write_box_file(file, images, boxes)
    console.print(f"{images} images, {boxes} boxes: {file.stat().st_size / 1e6:.0f} MB")
    figures = {name: read_annotations("afictl", file, 1) for name in ("first start", "later start")}
    console.print(f"index: {cache_paths(file)[0].stat().st_size / 1e6:.0f} MB")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--boxes", type=int, default=30_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="afictl-benchmark-") as folder:
        figures = measure(Path(folder), options.images, options.boxes, console)
    table = Table("", title="seconds, processor seconds, and MB of a process")
    for header in ("s", "CPU s", "peak MB", "private MB", "epoch s"):
        table.add_column(header, justify="right")
    for name, row in figures.items():
        values = (row["seconds"], row["cpu_seconds"], row["peak"], row["own"] - row["own_before"], row["epoch_seconds"])
        table.add_row(name, *(f"{value:.1f}" for value in values))
    console.print(table)
    write_results(options.json, {"images": options.images, "boxes": options.boxes, "figures": figures})


if __name__ == "__main__":
    run_benchmark(main)
