"""What a detector costs, part by part, counted by torch's own flop counter without computing anything.

The counter knows convolutions and matrix products. In the interpolator also the rest of its arithmetic counts, which
for some kinds is most of it: a value sampled bilinearly takes four multiply-adds, one sampled bicubically sixteen, and
each product of two maps one, such as that of a shifted map and a plane of predicted kernels. Left out, as is usual, are
activations, norms and softmax, copies, and sums alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
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
    """For one image, padding counted as work: convolutions and matrix products; in the interpolator all products."""


_ATEN = torch.ops.aten
_MULTIPLY_ADDS = {
    _ATEN.mul: 1,
    _ATEN.addcmul: 1,
    _ATEN.addcmul_: 1,
    _ATEN.lerp: 1,
    _ATEN.grid_sampler_2d: 4,
    _ATEN.upsample_bilinear2d: 4,
    _ATEN.upsample_bicubic2d: 16,
}
"""For each value of the answer of an operation that torch's counter does not know."""


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
        PartCost("neck", "", _parameters([model.neck]) - inside, neck),
        PartCost("interpolator", "", inside, interpolator),
        *(PartCost(part.name, part.load, _parameters(part.modules), work) for part, work in head),
    ]


def _on_meta(detector: Detector) -> Detector:
    """A copy without storage."""
    shadows: dict[int, Any] = {id(value): value.to("meta") for value in detector.buffers()}
    for value in detector.parameters():
        shadows[id(value)] = nn.Parameter(value.to("meta"), value.requires_grad)
    return copy.deepcopy(detector, shadows)


def interpolator_cost(interpolator: nn.Module, *maps: Tensor) -> int:
    """Multiply-adds of one call ``interpolator(*maps)``; on maps and weights of the meta device nothing is computed."""
    formulas = {operation: partial(_flops, each) for operation, each in _MULTIPLY_ADDS.items()}
    return _count(lambda: interpolator(*maps), formulas)[1]


def _flops(each: int, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    is_map = len(out_shape) >= 4  # not a row of coordinates, which are no work of each channel
    return 2 * each * math.prod(out_shape) if is_map else 0


def _count(run: Callable[[], Any], formulas: Mapping[Any, Any] | None = None) -> tuple[Any, int]:
    with FlopCounterMode(display=False, custom_mapping=dict(formulas or {})) as counter:
        answer = run()
    return answer, counter.get_total_flops() // 2  # torch counts a multiply-add as two


def _count_neck(neck: Any, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], int, int]:
    """The pyramid, the work of the neck without its interpolator, and of all the interpolator's calls."""
    calls: list[tuple[Tensor, ...]] = []
    hook = neck.interpolator.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    pyramid, total = _count(lambda: neck(features))
    hook.remove()
    known = sum(_count(partial(neck.interpolator, *inputs))[1] for inputs in calls)
    inside = sum(interpolator_cost(neck.interpolator, *inputs) for inputs in calls)
    return pyramid, total - known, inside


def _parameters(modules: Iterable[nn.Module]) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())
