"""Comparisons as ``compare`` would find them, of runs that were never trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afictl.comparison.analysis.summary import MeasuredMethod, build_comparison
from afictl.comparison.results import Comparison, ComparisonRun, Cost
from afictl.data import load_coco
from afictl.evaluation import score_predictions

NAMES = (
    "nearest",
    "bilinear",
    "bicubic",
    "transposed-conv",
    "pixel-shuffle",
    "carafe",
    "dysample",
    "dysample-plus",
    "sapa",
    "fade",
    "afi",
)
_EXTRA = (0.0, 0.0, 0.02, 3.1, 4.9, 1.3, 0.08, 0.09, 0.4, 1.6, 9.7)  # G multiply-adds of the interpolators


def make_comparison(
    data: Path,
    runs: Path,
    names: Sequence[str] = NAMES[:3],
    seeds: int = 2,
    *,
    masks: bool = True,
    priced: bool = True,
) -> Comparison:
    """Fake runs of ``names`` with ``seeds`` seeds below ``runs``, scored on the validation images of ``data``."""
    annotation_file = data / "annotations" / "instances_val2017.json"
    truth = json.loads(annotation_file.read_text())
    cells = [
        tuple(make_run(runs / f"{k}-seed{seed}", truth, annotation_file, k, seed, masks) for seed in range(seeds))
        for k in range(len(names))
    ]
    entries = [
        MeasuredMethod(
            name,
            name if k < len(NAMES) - 1 else "runs/pretrain/afi",
            cells[k],
            make_cost(k) if priced else None,
        )
        for k, name in enumerate(names)
    ]
    conditions = {"schedule": "800 steps of 4 images", "start weights": "none", "precision": "32-true"}
    preset = "mask-rcnn-r18-fpn-tiny" if masks else "faster-rcnn-r18-fpn-tiny"
    return build_comparison(preset, load_coco(data, "val"), entries, conditions, names[0])


def make_cost(k: int) -> Cost:
    """The price of the ``k``-th of ``NAMES``."""
    extra = _EXTRA[k % len(_EXTRA)]
    return Cost(
        image_hw=(480, 640),
        parameters=int(13.2e6 + extra * 1e5),
        interpolator_parameters=int(extra * 1e5),
        multiply_adds=int((18.4 + extra) * 1e9),
        interpolator_multiply_adds=int(extra * 1e9),
        milliseconds=61.0 + 3.1 * extra,
        interpolator_milliseconds=0.4 + 2.9 * extra,
        peak_bytes=int((310 + 4 * extra) * 2**20),
        interpolator_peak_bytes=int((3 + 4 * extra) * 2**20),
    )


def make_run(
    folder: Path, truth: Mapping[str, Any], annotation_file: Path, k: int, seed: int, masks: bool = True
) -> ComparisonRun:
    """A run folder with predictions, curves and versions; method ``k`` finds a little more than the one before."""
    folder.mkdir(parents=True)
    random = np.random.default_rng((k // 2, seed))
    predictions = [found for item in truth["annotations"] for found in _find(item, random, 0.62 + 0.025 * k, masks)]
    (folder / "predictions.json").write_text(json.dumps(predictions))
    evaluation = score_predictions(predictions, annotation_file)
    write_curves(folder, evaluation.metrics, random)
    versions = {"command": ["afictl", "compare", "--seeds", "2"], "python": "3.11.7", "torch": "2.14.1"}
    (folder / "versions.json").write_text(json.dumps(versions))
    return ComparisonRun(seed, folder, evaluation.metrics, evaluation.per_class, 840.0 + 30 * k + seed)


def write_curves(folder: Path, metrics: Mapping[str, float | None], random: np.random.Generator) -> None:
    """``metrics.jsonl`` of 800 steps that ends with ``metrics``."""
    records: list[dict[str, Any]] = []
    for step in (11, *range(20, 801, 20)):
        loss = 0.5 + 1.6 * math.exp(-step / 160) + random.normal(0, 0.03)
        records.append({"step": step, "loss_classifier": loss * 0.6, "loss_box_reg": loss * 0.4, "lr": 0.01})
        if step % 160 == 0:
            share = 1 - 0.6 * math.exp(-step / 200)
            found = {name: None if value is None else value * share for name, value in metrics.items()}
            records.append({"step": step, **(found if step < 800 else metrics)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _find(item: Mapping[str, Any], random: np.random.Generator, chance: float, masks: bool) -> list[dict[str, Any]]:
    """The object found with probability ``chance``, its box a little off; otherwise a weak guess or nothing."""
    x, y, width, height = item["bbox"]
    off = random.normal(0, 0.07, 4)
    found = {
        "image_id": item["image_id"],
        "category_id": item["category_id"],
        "bbox": [x + off[0] * width, y + off[1] * height, width * (1 + off[2]), height * (1 + off[3])],
        "score": float(random.uniform(0.5, 1)),
    }
    if masks:
        found["segmentation"] = item["segmentation"]
    if random.uniform() < chance:
        return [found]
    return [{**found, "score": float(random.uniform(0.05, 0.5))}] if random.uniform() < 0.5 else []
