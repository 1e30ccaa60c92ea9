"""Mask R-CNN: afictl's against those of other libraries, and its learned interpolators against nearest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from afictl.backbones.checkpointing import checkpoint_module
from benchmarks.speed.machine import DTYPES, Machine
from benchmarks.speed.models import (
    Model,
    afictl_model,
    build_with_detections,
    detectron2_model,
    mask_rcnn_preset,
    picture,
    target_of,
    torchvision_model,
    with_interpolator,
)
from benchmarks.speed.rows import SpeedRow, measure_alternatives, missing_rows

PART = "detectors"
_HW, _SHORT_HW = (608, 800), (64, 96)
_SHORT_SETTINGS = (
    *("backbone.name=resnet18", "detector.roi_batch=16", "detector.max_detections=5"),
    *("detector.proposals_train=40", "detector.proposals_test=40"),
)
_SECONDS = 15.0
_LEARNING_RATE = 1e-6
_TOLERANCE = 2.0
"""Pixels."""
_KINDS = ("afi-lite", "afi")
"""Interpolators that are compared with nearest, the one of all other alternatives."""
_CHECKPOINTED = "afictl, afi, checkpointing"
"""As ``interpolator.checkpointing``; in training only."""


def measure_detectors(machine: Machine) -> Iterator[list[SpeedRow]]:
    """Rows of inference and of a training step with one image, on a GPU in each precision."""
    models = build_models(machine.device, machine.short)
    baselines = {name: "afictl, afi" if name == _CHECKPOINTED else "afictl" for name in models if "," in name}
    precisions = [
        name for name in DTYPES if name in machine.roofs and (name == "fp32" or machine.device.type == "cuda")
    ]
    workloads: Mapping[str, Callable[[Model], Callable[[], Any]]] = {
        "inference": _detection,
        "training step": _training,
    }
    for precision, (workload, run_of) in itertools.product(precisions, workloads.items()):
        name = "{}, {}x{}".format(workload, *(_SHORT_HW if machine.short else _HW))
        is_detection = run_of is _detection
        runs = {
            key: _in_precision(run_of(model), precision, machine)
            for key, model in models.items()
            if not (is_detection and key == _CHECKPOINTED)
        }
        describe = partial(_describe, models) if is_detection else _describe_losses
        rows = measure_alternatives(PART, name, precision, runs, machine, _SECONDS, describe, baselines)
        if "detectron2" not in models:
            rows += missing_rows(PART, name, precision, "detectron2 is not installed")
        yield rows


def build_models(device: torch.device, short: bool) -> dict[str, Model]:
    """The alternatives, torchvision's first, with the same weights and inputs; smaller and fewer ones if ``short``."""
    hw = _SHORT_HW if short else _HW
    image, target = picture(hw).to(device), {name: value.to(device) for name, value in target_of(hw).items()}
    detector = build_with_detections(mask_rcnn_preset(_SHORT_SETTINGS if short else ()), image)
    models = {"torchvision": torchvision_model(detector, image, target)}
    if find_spec("detectron2"):
        models["detectron2"] = detectron2_model(detector, image, target)
    models["afictl"] = afictl_model(detector, image, target)
    for kind in _KINDS[:1] if short else _KINDS:
        models[f"afictl, {kind}"] = afictl_model(with_interpolator(detector, kind), image, target)
    if not short:
        checkpointed = with_interpolator(detector, "afi")
        checkpoint_module(checkpointed.neck.interpolator)
        models[_CHECKPOINTED] = afictl_model(checkpointed, image, target)
    return models


def _in_precision(run: Callable[[], Any], precision: str, machine: Machine) -> Callable[[], Any]:
    def in_precision() -> Any:
        with machine.autocast(precision):
            return run()

    return in_precision


def _detection(model: Model) -> Callable[[], Any]:
    @torch.no_grad()
    def run() -> Any:
        return model.module.eval()(model.images)

    return run


def _training(model: Model) -> Callable[[], dict[str, float]]:
    trainable = [value for value in model.module.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=_LEARNING_RATE, momentum=0.9)

    def run() -> dict[str, float]:
        with model.context():
            losses = model.module.train()(*model.training)
        optimizer.zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    return run


def _describe(models: Mapping[str, Model], results: Mapping[str, Any]) -> dict[str, str]:
    """Number of detections of each alternative, and how many of them are those of afictl with nearest."""
    boxes = {name: models[name].boxes(result) for name, result in results.items()}
    equal = {name: _num_equal(values, boxes["afictl"]) for name, values in boxes.items()}
    return {name: f"{len(values)} detections, {equal[name]} as afictl" for name, values in boxes.items()}


def _num_equal(boxes: Tensor, expected: Tensor) -> int:
    """Number of ``boxes`` (n, 4) of which each side is within two pixels of one of ``expected``."""
    distances = (boxes[:, None] - expected).abs().amax(dim=2)
    return int((distances.amin(dim=1) < _TOLERANCE).sum()) if len(expected) else 0


def _describe_losses(results: Mapping[str, dict[str, float]]) -> dict[str, str]:
    return {name: f"loss {sum(losses.values()):.3g}" for name, losses in results.items()}
