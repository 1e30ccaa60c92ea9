"""What a detector costs, part by part, counted by torch's own flop counter without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from afictl.detectors.detector import Detector


class PartCost(NamedTuple):
    """Size and work of one part of a detector."""

    name: str
    load: str
    """For a part of the head, what it is run on; empty for the others."""
    parameters: int
    multiply_adds: int
    """For one image, convolutions and matrix products only, padding counted as work."""


def model_cost(detector: Detector, image_hw: tuple[int, int]) -> list[PartCost]:
    """Backbone, neck without its interpolator, interpolator (all its calls), then the parts of the head.

    Args:
        detector: on any device; it is left as it is.
        image_hw: height and width of the image as the detector is given it; it is padded as usual.
    """
    model = _on_meta(detector).eval()
    batch = model.batch([torch.empty(3, *image_hw, device="meta")])
    with torch.no_grad():
        features, backbone = _count(lambda: model.backbone(batch.tensor))
        pyramid, neck, interpolator = _count_neck(model.neck, features)
        head = [(part, _count(part.run)[1]) for part in model.head.parts(pyramid)]
    inside = _parameters([model.neck.interpolator])
    return [
        PartCost("backbone", "", _parameters([model.backbone]), backbone),
        PartCost("neck", "", _parameters([model.neck]) - inside, neck - interpolator),
        PartCost("interpolator", "", inside, interpolator),
        *(PartCost(part.name, part.load, _parameters(part.modules), work) for part, work in head),
    ]


def _on_meta(detector: Detector) -> Detector:
    """A copy without storage."""
    shadows: dict[int, Any] = {id(value): value.to("meta") for value in detector.buffers()}
    for value in detector.parameters():
        shadows[id(value)] = nn.Parameter(value.to("meta"), value.requires_grad)
    return copy.deepcopy(detector, shadows)


def _count(run: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        answer = run()
    return answer, counter.get_total_flops() // 2  # torch counts a multiply-add as two


def _count_neck(neck: Any, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], int, int]:
    """The pyramid, the work of the whole neck, and of its interpolator's calls among it."""
    calls: list[tuple[Tensor, ...]] = []
    hook = neck.interpolator.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    pyramid, total = _count(lambda: neck(features))
    hook.remove()
    inside = sum(_count(partial(neck.interpolator, *inputs))[1] for inputs in calls)
    return pyramid, total, inside


def _parameters(modules: Iterable[nn.Module]) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())
