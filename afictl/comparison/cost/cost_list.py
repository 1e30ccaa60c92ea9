"""What each interpolator costs in a detector: of runs, and without any training."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from afictl.comparison.analysis.summary import MeasuredMethod, build_comparison, choose_baseline
from afictl.comparison.cost.measurement import cost_images, measure_costs
from afictl.comparison.experiment.specification import Method
from afictl.comparison.results import Comparison, Cost
from afictl.data import Dataset, load_coco
from afictl.data.hashing import file_digest
from afictl.detectors import Detector
from afictl.presets import Preset
from afictl.progress import ProgressDisplay, no_progress
from afictl.run_folder import LAST
from afictl.training.hardware import hardware_record
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
    resolve_interpolator,
)
from afictl.training.run_writer import config_differences
from afictl.weights import load_detector


def list_costs(
    fabric: Fabric,
    preset: Preset,
    methods: Sequence[Method],
    *,
    data: Path | None = None,
    weights: Path | None = None,
    baseline: str | None = None,
    progress: ProgressDisplay = no_progress,
) -> Comparison:
    """The prices of ``preset`` with each interpolator, without training.

    Measured on the first held-out images of ``data``, or on noise as large as an image can be at evaluation. A detector
    that has not been trained finds as many objects as chance wants, so what a head does for each object, such as a
    mask, costs another time than in a trained one.

    Raises:
        UserError: data, weights or an interpolator that do not fit.
    """
    names = [contender.name for contender in methods]
    choose_baseline(names, baseline)
    index = load_coco(data, "val") if data else None
    detectors = {}
    for each in methods:
        own, interpolator = resolve_interpolator(preset, each.source, seed=0)
        detector = build_seeded_detector(own, interpolator, len(index.classes) if index else 80, seed=0)
        if weights:
            load_initial_weights(detector, InitialWeights(each.source, weights))
        detectors[each.name] = detector
    prices = _prices(fabric, detectors, index, progress)
    entries = [MeasuredMethod(each.name, each.source, (), prices[each.name]) for each in methods]
    images = f"the first images of {data}" if data else "an image of noise, as large as evaluation allows"
    conditions = {"prices": describe_measurement(fabric, images)}
    return build_comparison(preset.name, index, entries, conditions, baseline)


def costs_of_runs(
    fabric: Fabric,
    folders: Mapping[str, Path],
    index: Dataset,
    progress: ProgressDisplay,
    earlier: Path | None = None,
) -> tuple[dict[str, Cost], dict[str, Any]]:
    """The prices of trained detectors, by the name of the folder of each, and what they depend on.

    Those of ``earlier``, a ``comparison.json``, are taken where they hold for the same detectors, images, device and
    software. All or none: times are compared with each other, so they are measured side by side.
    """
    basis = _basis(fabric, folders, index)
    known = _known_prices(earlier, basis) if earlier else {}
    if folders.keys() <= known.keys():
        return {name: known[name] for name in folders}, basis
    detectors = {name: load_detector(folder / LAST).detector for name, folder in folders.items()}
    return _prices(fabric, detectors, index, progress), basis


def _basis(fabric: Fabric, folders: Mapping[str, Path], index: Dataset) -> dict[str, Any]:
    """What prices depend on, as plain values; a detector's file holds its preset, sizes and interpolator too."""
    device = fabric.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.node()}, {platform.platform()}"
    return {
        "detectors": {method: file_digest(folder / LAST) for method, folder in folders.items()},
        "images": str(index.annotation_file.resolve()),
        "device": name,
        "threads": torch.get_num_threads(),
        "precision": hardware_record(fabric)["precision"],
        "versions": {package: version(package) for package in ("afictl", "torch", "torchvision", "timm")},
    }


def _known_prices(file: Path, basis: Mapping[str, Any]) -> dict[str, Cost]:
    """The prices in ``comparison.json`` of the detectors that are the same, if all else is."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        before = content["price_basis"]
        if config_differences(before | {"detectors": {}}, {**basis, "detectors": {}}):
            return {}
        same = {name for name, digest in before["detectors"].items() if basis["detectors"].get(name) == digest}
        stored = {method["name"]: method["price"] for method in content["methods"] if method["name"] in same}
        names = [field.name for field in fields(Cost)]
        values = {method: {name: price[name] for name in names} for method, price in stored.items()}
        return {method: Cost(**value | {"image_hw": tuple(value["image_hw"])}) for method, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or of another version
        return {}


def describe_measurement(fabric: Fabric, images: str = "the first held-out images") -> str:
    """What the prices hold for, in words; times mean nothing without it."""
    return f"of {images}, on {fabric.device}, in {hardware_record(fabric)['precision']}"


def _prices(
    fabric: Fabric, detectors: Mapping[str, Detector], index: Dataset | None, progress: ProgressDisplay
) -> dict[str, Cost]:
    for detector in detectors.values():
        fabric.to_device(detector)
    view = next(iter(detectors.values())).input
    with fabric.autocast(), progress("prices") as show:
        return measure_costs(detectors, cost_images(view, index), show)
