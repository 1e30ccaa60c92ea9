"""Costs of the methods of a comparison, trained or untrained."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import torch
from lightning_fabric import Fabric

from afictl.comparison.analysis.origins import method_result
from afictl.comparison.analysis.summary import build_comparison, choose_baseline
from afictl.comparison.cost.measurement import cost_images, measure_costs
from afictl.comparison.experiment.specification import Method, resolve_method
from afictl.comparison.records import CostRecord, read_comparison
from afictl.comparison.results import Comparison, Cost
from afictl.data import Dataset, load_dataset
from afictl.data.hashing import file_digest
from afictl.detectors import Detector
from afictl.detectors.image_memory import require_image_memory
from afictl.errors import UserError
from afictl.presets import Preset
from afictl.progress import ProgressDisplay, no_progress
from afictl.run_folder import LAST
from afictl.training.hardware import hardware_record
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
)
from afictl.training.run_writer import config_differences
from afictl.weights import load_detector

_DEFAULT_NUM_CLASSES = 80


class CostBasis(TypedDict):
    """All inputs of the cost measurement; a detector file includes preset and interpolator."""

    detectors: dict[str, str]
    """SHA-256 of the last checkpoint by method."""
    images: str
    device: str
    threads: int
    precision: str
    versions: dict[str, str]


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
    """Measure the costs of ``preset`` with each interpolator, without training.

    The images are the first held-out ones of ``data``, or noise at the largest size of evaluation. The number of
    detections of an untrained detector is arbitrary, and with it the time of heads that process each detection.

    Raises:
        UserError: invalid or incompatible data, weights or interpolator.
    """
    choose_baseline([method.name for method in methods], baseline)
    dataset = load_dataset(data, "val") if data else None
    detectors = {}
    for method in methods:
        method_preset, interpolator = resolve_method(preset, method)
        num_classes = len(dataset.classes) if dataset else _DEFAULT_NUM_CLASSES
        detector = build_seeded_detector(method_preset, interpolator, num_classes, seed=0)
        if weights:
            load_initial_weights(detector, InitialWeights(method.source, weights))
        detectors[method.name] = detector
    costs = _measure(fabric, detectors, dataset, progress)
    results = [method_result(method, Path(), costs[method.name]) for method in methods]
    images = f"the first images of {data}" if data else "an image of noise at the largest size of evaluation"
    settings = {"cost": describe_measurement(fabric, images)}
    return build_comparison(preset.name, dataset, results, settings, baseline)


def costs_of_runs(
    fabric: Fabric,
    folders: Mapping[str, Path],
    dataset: Dataset,
    progress: ProgressDisplay,
    earlier: Path | None = None,
) -> tuple[dict[str, Cost], CostBasis]:
    """Measure the costs of trained detectors.

    Stored costs are used only if valid for all detectors: only times that are measured together are comparable.

    Args:
        fabric: device and precision.
        folders: run folder by method.
        dataset: dataset whose first images are used.
        progress: display for the measurement.
        earlier: ``comparison.json`` with stored costs, valid for equal detectors, images, device and software.

    Returns:
        Cost by method, and the inputs of the measurement.
    """
    basis = _cost_basis(fabric, folders, dataset)
    stored = _stored_costs(earlier, basis) if earlier else {}
    if folders.keys() <= stored.keys():
        return {name: stored[name] for name in folders}, basis
    detectors = {name: load_detector(folder / LAST).detector for name, folder in folders.items()}
    return _measure(fabric, detectors, dataset, progress), basis


def describe_measurement(fabric: Fabric, images: str = "the first held-out images") -> str:
    """Images, device and precision of the measurement as text."""
    return f"of {images}, on {fabric.device}, in {hardware_record(fabric)['precision']}"


def _digest(text: str) -> str:
    """Digest of a path or machine name, which tables that are passed on should not contain."""
    return sha256(text.encode(errors="replace")).hexdigest()[:16]


def _cost_basis(fabric: Fabric, folders: Mapping[str, Path], dataset: Dataset) -> CostBasis:
    device = fabric.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.node()}, {platform.platform()}"
    return {
        "detectors": {method: file_digest(folder / LAST) for method, folder in folders.items()},
        "images": _digest(str(dataset.annotation_file.resolve())),
        "device": _digest(name),
        "threads": torch.get_num_threads(),
        "precision": str(hardware_record(fabric)["precision"]),
        "versions": {package: version(package) for package in ("afictl", "torch", "torchvision", "timm")},
    }


def _stored_costs(file: Path, basis: CostBasis) -> dict[str, Cost]:
    """Costs of unchanged detectors in ``comparison.json``; empty if another value of ``basis`` has changed."""
    try:
        stored = read_comparison(file)
    except UserError:  # absent, damaged, or of another version
        return {}
    old_basis = stored.price_basis.model_dump()
    if config_differences(old_basis | {"detectors": {}}, {**basis, "detectors": {}}):
        return {}
    digests = stored.price_basis.detectors
    return {
        method.name: _parse_cost(method.price)
        for method in stored.methods
        if method.price and digests.get(method.name, "") == basis["detectors"].get(method.name)
    }


def _parse_cost(record: CostRecord) -> Cost:
    height, width = record.image_hw
    values = {field.name: getattr(record, field.name) for field in fields(Cost)}
    return Cost(**values | {"image_hw": (height, width)})


def _measure(
    fabric: Fabric, detectors: Mapping[str, Detector], dataset: Dataset | None, progress: ProgressDisplay
) -> dict[str, Cost]:
    for detector in detectors.values():
        require_image_memory(detector.preset, fabric.device)
        fabric.to_device(detector)
    config = next(iter(detectors.values())).input
    with fabric.autocast(), progress("costs") as show:
        return measure_costs(detectors, cost_images(config, dataset), show)
