"""Process that reads an annotation file with one library and reports time and memory.

It reads commands from standard input, so that several processes can be measured at once: ``load`` reads the file,
``epoch`` visits the objects of a part of the images, ``memory`` does nothing. It replies to each with a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from benchmarks.process_memory import process_memory

Visit = Callable[[slice], None]
"""Reads the objects of a part of the images."""


def readers() -> list[str]:
    """Names of the installed libraries."""
    return ["pycocotools", *(["detectron2"] if find_spec("detectron2") else []), "afictl"]


def _pycocotools(file: Path) -> Callable[[], Visit]:
    from pycocotools.coco import COCO

    def load() -> Visit:
        coco = COCO(file)

        def visit(part: slice) -> None:
            for image_id in list(coco.imgs)[part]:
                coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))

        return visit

    return load


def _detectron2(file: Path) -> Callable[[], Visit]:
    from detectron2.data import DatasetFromList
    from detectron2.data.datasets.coco import load_coco_json

    def load() -> Visit:
        # copied into one array, as in the training loader of detectron2; the original lists are freed there too
        records = DatasetFromList(load_coco_json(str(file), ""))

        def visit(part: slice) -> None:
            for k in range(len(records))[part]:
                records[k]

        return visit

    return load


def _afictl(file: Path) -> Callable[[], Visit]:
    from afictl.data import load_dataset

    def load() -> Visit:
        dataset = load_dataset(file.parents[1], "train")

        def visit(part: slice) -> None:
            for k in range(len(dataset))[part]:
                dataset.objects(k)

        return visit

    return load


_READERS = {"pycocotools": _pycocotools, "detectron2": _detectron2, "afictl": _afictl}


def _main(library: str, file: Path, part: slice) -> None:
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # pycocotools prints
        load = _READERS[library](file)
        _write_line(output, {})
        visit: Visit | None = None
        for line in sys.stdin:
            start, cpu_start = time.perf_counter(), time.process_time()
            if line.strip() == "load":
                visit = load()
            elif line.strip() == "epoch" and visit:
                visit(part)
            times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
            _write_line(output, times)


def _write_line(output: TextIO, times: dict[str, float]) -> None:
    print(json.dumps(times | process_memory()), file=output, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), slice(int(sys.argv[3]), None, int(sys.argv[4])))
