"""A process that scores a file of predictions as one library does, and prints what it found and what that took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Numbers = dict[str, "float | None"]
_IOU_TYPES = {"box": "bbox", "mask": "segm"}


def _pycocotools(truth: Path, found: Path, kinds: list[str]) -> Callable[[], Numbers]:
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def mean(values: Any) -> float | None:
        defined = values[values > -1]
        return float(defined.mean() * 100) if defined.size else None

    def score() -> Numbers:
        objects, numbers = COCO(str(truth)), {}
        for kind in kinds:
            results = json.loads(found.read_bytes())
            for result in results if kind == "mask" else ():  # without their boxes masks are as large as they are
                del result["bbox"]
            scorer = COCOeval(objects, objects.loadRes(results), _IOU_TYPES[kind])
            scorer.evaluate()
            scorer.accumulate()
            scorer.summarize()
            for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), scorer.stats, strict=False):
                numbers[f"{kind}/{name}"] = None if value < 0 else float(value) * 100
            precision = np.asarray(scorer.eval["precision"])[:, :, :, 0, -1]
            for k, category in enumerate(objects.loadCats(scorer.params.catIds)):
                numbers[f"{category['name']}/{kind}/AP"] = mean(precision[:, :, k])
                numbers[f"{category['name']}/{kind}/AP50"] = mean(precision[0, :, k])
        return numbers

    return score


def _afictl(truth: Path, found: Path, kinds: list[str]) -> Callable[[], Numbers]:
    from afictl.evaluation import score_predictions

    def score() -> Numbers:
        result = score_predictions(found, truth, masks="mask" in kinds)
        numbers = dict(result.metrics)
        for row in result.per_class:
            for kind in kinds:
                for name in ("AP", "AP50"):
                    numbers[f"{row['name']}/{kind}/{name}"] = row[f"{kind}/{name}"]
        return numbers

    return score


_LIBRARIES = {"pycocotools": _pycocotools, "afictl": _afictl}


def _peak() -> float:
    """Megabytes that were resident at most so far, zero where the system does not tell (it is Linux that does).

    Not getrusage, which begins with what the starting process had.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:")), 0.0)


def main() -> None:
    """Arguments: library, annotation file, predictions, and ``box`` or ``box,mask``."""
    library, truth, found, kinds = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # pycocotools reports on the console
        score = _LIBRARIES[library](Path(truth), Path(found), kinds.split(","))
        before, began, worked = _peak(), time.perf_counter(), time.process_time()
        numbers = score()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "imports": before, "peak": _peak()}
    print(json.dumps({**figures, "numbers": numbers}))


if __name__ == "__main__":
    main()
