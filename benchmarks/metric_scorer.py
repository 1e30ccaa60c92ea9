"""Process that scores a file of predictions with one library and prints metrics, time and memory as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from benchmarks.process_memory import process_memory

Metrics = dict[str, "float | None"]
_IOU_TYPES = {"box": "bbox", "mask": "segm"}


def _pycocotools(ground_truth: Path, predictions: Path, kinds: list[str]) -> Callable[[], Metrics]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def mean(values: np.ndarray) -> float | None:
        defined = values[values > -1]
        return float(defined.mean() * 100) if defined.size else None

    def score() -> Metrics:
        objects, metrics = COCO(str(ground_truth)), {}
        for kind in kinds:
            results = json.loads(predictions.read_bytes())
            for result in results if kind == "mask" else ():  # without a box the area is that of the mask
                del result["bbox"]
            scorer = COCOeval(objects, objects.loadRes(results), _IOU_TYPES[kind])
            scorer.evaluate()
            scorer.accumulate()
            scorer.summarize()
            for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), scorer.stats, strict=False):
                metrics[f"{kind}/{name}"] = None if value < 0 else float(value) * 100
            precision = np.asarray(scorer.eval["precision"])[:, :, :, 0, -1]
            for k, category in enumerate(objects.loadCats(scorer.params.catIds)):
                metrics[f"{category['name']}/{kind}/AP"] = mean(precision[:, :, k])
                metrics[f"{category['name']}/{kind}/AP50"] = mean(precision[0, :, k])
        return metrics

    return score


def _afictl(ground_truth: Path, predictions: Path, kinds: list[str]) -> Callable[[], Metrics]:
    from afictl.evaluation import score_predictions

    def score() -> Metrics:
        result = score_predictions(predictions, ground_truth, masks="mask" in kinds)
        metrics = dict(result.metrics)
        for row in result.per_class:
            for kind in kinds:
                for name in ("AP", "AP50"):
                    metrics[f"{row['name']}/{kind}/{name}"] = row[f"{kind}/{name}"]
        return metrics

    return score


_SCORERS = {"pycocotools": _pycocotools, "afictl": _afictl}


def _main(library: str, ground_truth: Path, predictions: Path, kinds: str) -> None:
    with redirect_stdout(sys.stderr):  # pycocotools prints
        score = _SCORERS[library](ground_truth, predictions, kinds.split(","))
        imports_mb, start, cpu_start = process_memory()["peak"], time.perf_counter(), time.process_time()
        metrics = score()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak_mb = process_memory()["peak"]
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "imports": imports_mb, "peak": peak_mb}
    print(json.dumps({**figures, "numbers": metrics}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
