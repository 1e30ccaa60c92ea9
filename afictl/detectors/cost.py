"""Parameters and multiply-adds of each part of a detector, counted by torch's flop counter on the meta device.

The counter covers convolutions and matrix products. In the interpolator all other products count too, which are most of
the work of some kinds: a value sampled bilinearly takes four multiply-adds, one sampled bicubically sixteen, and
each product of two maps one, such as that of a shifted map and a plane of predicted kernels. Left out, as is usual, are
activations, norms and softmax, copies, and sums alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from afictl.backbones import FeatureExtractor
from afictl.detectors.detector import Detector
from afictl.detectors.head import FeatureMaps, HeadWithParts
from afictl.detectors.upsampling_calls import recorded_inputs
from afictl.interpolators import PerStepInterpolator
from afictl.necks import Neck

_Output = TypeVar("_Output")


class PartCost(NamedTuple):
    """Parameters and multiply-adds of one part of a detector."""

    name: str
    workload: str
    """Input of a part of the head or of a step, such as ``1000 regions``; empty for the others."""
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
"""Per value of the output of an operation that torch's counter leaves out."""


def model_cost(detector: Detector, image_hw: tuple[int, int]) -> list[PartCost]:
    """Backbone, neck without its interpolator, interpolator (all its calls), then the parts of the head.

    Args:
        detector: on any device; not changed.
        image_hw: height and width of the image before it is padded.

    Raises:
        ValueError: a head without ``parts``.
    """
    model = _on_meta(detector).eval()
    if not isinstance(model.head, HeadWithParts):
        raise ValueError(f"{type(model.head).__name__} has no method 'parts': its cost cannot be counted")
    batch = model.batch([torch.empty(3, *image_hw, device="meta")])
    with torch.no_grad():
        features, backbone = _count(lambda: model.backbone(batch.tensor))
        pyramid, neck, interpolator = _count_neck(model.neck, features)
        head = [(part, _count(part.run)[1]) for part in model.head.parts(pyramid)]
    interpolator_parameters = _count_parameters(model.neck.interpolator)
    return [
        PartCost("backbone", "", _count_parameters(model.backbone), backbone),
        PartCost("neck", "", _count_parameters(model.neck) - interpolator_parameters, neck),
        PartCost("interpolator", "", interpolator_parameters, interpolator),
        *(PartCost(part.name, part.workload, _count_parameters(*part.modules), count) for part, count in head),
    ]


def step_costs(detector: Detector, image_hw: tuple[int, int]) -> list[PartCost]:
    """Each module of a ``PerStepInterpolator`` and its call, as ``step 0`` and so on; empty for a shared interpolator.

    Args:
        detector: on any device; not changed.
        image_hw: height and width of the image before it is padded.
    """
    model = _on_meta(detector).eval()
    interpolator = model.neck.interpolator
    if not isinstance(interpolator, PerStepInterpolator):
        return []
    batch = model.batch([torch.empty(3, *image_hw, device="meta")])
    with torch.no_grad(), recorded_inputs(model.neck) as calls:
        model.neck(model.backbone(batch.tensor))
    costs = []
    for number, (step, inputs) in enumerate(zip(interpolator.steps, reversed(calls), strict=True)):
        (h, w), (height, width) = (value.shape[-2:] for value in inputs[:2])
        workload = f"{w}x{h} to {width}x{height}"
        costs.append(
            PartCost(f"step {number}", workload, _count_parameters(step), interpolator_cost(step, *inputs[:2]))
        )
    return costs


def _on_meta(detector: Detector) -> Detector:
    """A copy without storage."""
    memo: dict[int, Tensor] = {id(value): value.to("meta") for value in detector.buffers()}
    for value in detector.parameters():
        memo[id(value)] = nn.Parameter(value.to("meta"), value.requires_grad)
    return copy.deepcopy(detector, memo)


def interpolator_cost(interpolator: nn.Module, *maps: Tensor) -> int:
    """Multiply-adds of one call ``interpolator(*maps)``; on maps and weights of the meta device nothing is computed."""
    formulas = {operation: partial(_flops, count) for operation, count in _MULTIPLY_ADDS.items()}
    return _count(lambda: interpolator(*maps), formulas)[1]


def _flops(multiply_adds: int, *_: object, out_shape: torch.Size, **__: object) -> int:
    is_map = len(out_shape) >= 4  # a row of coordinates is computed once for all channels
    return 2 * multiply_adds * math.prod(out_shape) if is_map else 0


def _count(run: Callable[[], _Output], formulas: Mapping[Any, Callable[..., int]] | None = None) -> tuple[_Output, int]:
    """The output of ``run``, and its multiply-adds."""
    with FlopCounterMode(display=False, custom_mapping=dict(formulas or {})) as counter:
        output = run()
    return output, counter.get_total_flops() // 2  # torch counts a multiply-add as two


def _count_neck(neck: Neck, features: FeatureMaps) -> tuple[FeatureMaps, int, int]:
    """The pyramid, and the multiply-adds of the neck without its interpolator and of all calls of the interpolator."""
    with recorded_inputs(neck) as calls:
        pyramid, total = _count(lambda: neck(features))
    torch_count = sum(_count(partial(neck.interpolator, *inputs))[1] for inputs in calls)
    interpolator = sum(interpolator_cost(neck.interpolator, *inputs) for inputs in calls)
    return pyramid, total - torch_count, interpolator


def _count_parameters(*modules: nn.Module | FeatureExtractor | Neck) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())
