"""A process that reads an annotation file as one library does, and tells what that took.

It obeys words on its standard input, so that several of them can be made to do the same at once: ``load`` reads the
file, ``epoch`` visits the objects of its share of the images, ``memory`` does nothing. A line of JSON answers each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Load = Callable[[], Any]
Visit = Callable[[Any, slice], None]


def readers() -> list[str]:
    """The libraries that can be measured here."""
    return ["pycocotools", *(["detectron2"] if find_spec("detectron2") else []), "afictl"]


def _pycocotools(file: Path) -> tuple[Load, Visit]:
    from pycocotools.coco import COCO

    def visit(coco: Any, share: slice) -> None:
        for image_id in list(coco.imgs)[share]:
            coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))

    return lambda: COCO(file), visit


def _detectron2(file: Path) -> tuple[Load, Visit]:
    from detectron2.data import DatasetFromList
    from detectron2.data.datasets.coco import load_coco_json

    def visit(records: Any, share: slice) -> None:
        for k in range(len(records))[share]:
            records[k]

    # Copied into one array as its training loader does; the lists that it comes from are dropped there as here.
    return lambda: DatasetFromList(load_coco_json(str(file), "")), visit


def _afictl(file: Path) -> tuple[Load, Visit]:
    from afictl.data import load_coco

    def visit(index: Any, share: slice) -> None:
        for k in range(len(index))[share]:
            index.objects(k)

    return lambda: load_coco(file.parents[1], "train"), visit


_READERS = {"pycocotools": _pycocotools, "detectron2": _detectron2, "afictl": _afictl}


def memory() -> dict[str, float]:
    """Megabytes of this process, zero where the system does not tell (it is Linux that does).

    ``peak`` and ``resident`` count shared pages too. ``own`` are pages that nobody else can use and that cannot be
    dropped; ``unshared`` also counts pages of files that nobody else has mapped right now.
    """
    kilobytes: dict[str, int] = {}
    for name in ("status", "smaps_rollup"):
        try:
            lines = Path("/proc/self", name).read_text().splitlines()
        except OSError:
            lines = []
        fields = (line.split() for line in lines)
        kilobytes |= {words[0]: int(words[1]) for words in fields if len(words) == 3 and words[2] == "kB"}
    dirty, clean = (kilobytes.get(f"Private_{kind}:", 0) for kind in ("Dirty", "Clean"))
    found = {"peak": kilobytes.get("VmHWM:", 0), "resident": kilobytes.get("VmRSS:", 0)}
    return {name: value / 1000 for name, value in (found | {"own": dirty, "unshared": dirty + clean}).items()}


def _main(library: str, file: Path, share: slice) -> None:
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # pycocotools prints
        load, visit = _READERS[library](file)
        _answer(answers, {})
        loaded: Any = None
        for line in sys.stdin:
            began, used = time.perf_counter(), time.process_time()
            if line.strip() == "load":
                loaded = load()
            elif line.strip() == "epoch":
                visit(loaded, share)
            _answer(answers, {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used})


def _answer(out: Any, figures: dict[str, float]) -> None:
    print(json.dumps(figures | memory()), file=out, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), slice(int(sys.argv[3]), None, int(sys.argv[4])))
