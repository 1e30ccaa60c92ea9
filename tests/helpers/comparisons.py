"""Comparisons like those of ``compare``, of runs with random predictions instead of training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from afictl.comparison.analysis.summary import build_comparison
from afictl.comparison.results import Comparison, ComparisonRun, Cost, MethodResult
from afictl.data import load_dataset
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
_EXTRA_MULTIPLY_ADDS = (0.0, 0.0, 0.02, 3.1, 4.9, 1.3, 0.08, 0.09, 0.4, 1.6, 9.7)
"""G multiply-adds of the interpolator of each of ``NAMES``."""


def make_comparison(
    data: Path,
    runs: Path,
    names: Sequence[str] = NAMES[:3],
    seeds: int = 2,
    *,
    masks: bool = True,
    costs: bool = True,
) -> Comparison:
    """Random runs of ``names`` with ``seeds`` seeds below ``runs``, scored on the validation images of ``data``."""
    annotation_file = data / "annotations" / "instances_val2017.json"
    truth = json.loads(annotation_file.read_text())
    methods = [
        MethodResult(
            name,
            name if k < len(NAMES) - 1 else "runs/pretrain/afi",
            tuple(make_run(runs / f"{k}-seed{seed}", truth, annotation_file, k, seed, masks) for seed in range(seeds)),
            make_cost(k) if costs else None,
            origin="no weights" if k < 3 else "fresh" if k < len(NAMES) - 1 else "trained: afi",
        )
        for k, name in enumerate(names)
    ]
    settings = {"schedule": "800 steps of 4 images", "start weights": "none", "precision": "32-true"}
    preset = "mask-rcnn-r18-fpn-tiny" if masks else "faster-rcnn-r18-fpn-tiny"
    return build_comparison(preset, load_dataset(data, "val"), methods, settings, names[0])


def with_images(comparison: Comparison, folder: Path) -> Comparison:
    """The same comparison with the held-out images in another folder."""
    assert comparison.held_out
    return replace(comparison, held_out=replace(comparison.held_out, image_dir=folder))


def make_cost(k: int) -> Cost:
    """The cost of the ``k``-th of ``NAMES``."""
    extra = _EXTRA_MULTIPLY_ADDS[k % len(_EXTRA_MULTIPLY_ADDS)]
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
    """A run folder with predictions, curves and versions; a larger ``k`` has more correct predictions."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng((k // 2, seed))
    recall = 0.62 + 0.025 * k
    predictions = [item for target in truth["annotations"] for item in _predict(target, generator, recall, masks)]
    (folder / "predictions.json").write_text(json.dumps(predictions))
    evaluation = score_predictions(predictions, annotation_file)
    write_curves(folder, evaluation.metrics, generator)
    versions = {"command": ["afictl", "compare", "--seeds", "2"], "python": "3.11.7", "torch": "2.14.1"}
    (folder / "versions.json").write_text(json.dumps(versions))
    return ComparisonRun(seed, folder, evaluation.metrics, evaluation.per_class, 840.0 + 30 * k + seed)


def write_curves(folder: Path, metrics: Mapping[str, float | None], generator: np.random.Generator) -> None:
    """``metrics.jsonl`` of 800 steps that ends with ``metrics``."""
    records: list[dict[str, Any]] = []
    for step in (11, *range(20, 801, 20)):
        loss = 0.5 + 1.6 * math.exp(-step / 160) + generator.normal(0, 0.03)
        records.append({"step": step, "loss_classifier": loss * 0.6, "loss_box_reg": loss * 0.4, "lr": 0.01})
        if step % 160 == 0:
            factor = 1 - 0.6 * math.exp(-step / 200) if step < 800 else 1.0
            values = {name: None if value is None else value * factor for name, value in metrics.items()}
            records.append({"step": step, **values})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _predict(
    target: Mapping[str, Any], generator: np.random.Generator, recall: float, masks: bool
) -> list[dict[str, Any]]:
    """With probability ``recall`` a prediction with a slightly shifted box; otherwise one of low score, or none."""
    x, y, width, height = target["bbox"]
    shift = generator.normal(0, 0.07, 4)
    prediction = {
        "image_id": target["image_id"],
        "category_id": target["category_id"],
        "bbox": [x + shift[0] * width, y + shift[1] * height, width * (1 + shift[2]), height * (1 + shift[3])],
        "score": float(generator.uniform(0.5, 1)),
    }
    if masks:
        prediction["segmentation"] = target["segmentation"]
    if generator.uniform() < recall:
        return [prediction]
    return [{**prediction, "score": float(generator.uniform(0.05, 0.5))}] if generator.uniform() < 0.5 else []
