"""Calls of the interpolator in a forward pass of a neck: the maps that it gets.

Legend: N images, C channels, h x w a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from afictl.detectors.detector import Detector
from afictl.detectors.head import FeatureMaps
from afictl.necks import Neck


class UpsamplingCall(NamedTuple):
    """Maps that a neck passes to its interpolator in one call."""

    level: str
    """Level of ``coarse``."""
    coarse: Tensor
    """(N, C, h, w), the map to enlarge."""
    fine: Tensor | None
    """(N, C, 2h or 2h - 1, 2w or 2w - 1), the map with which the neck fuses the enlarged one; None where the neck of
    another library does not pass it along."""


@contextmanager
def recorded_inputs(neck: Neck) -> Iterator[list[tuple[Tensor, ...]]]:
    """Record the inputs of every call of the interpolator of ``neck`` in the block, in the order of the calls."""
    inputs: list[tuple[Tensor, ...]] = []
    hook = neck.interpolator.register_forward_pre_hook(lambda _, maps: inputs.append(maps))
    try:
        yield inputs
    finally:
        hook.remove()


def pyramid_and_calls(
    detector: Detector, images: Sequence[Tensor], across_ranks: bool = False
) -> tuple[FeatureMaps, list[UpsamplingCall]]:
    """The pyramid of ``images``, and the calls of the interpolator that it took, coarse levels first.

    FPN and PAFPN call it once a level, with the sum of the lateral map and the enlarged coarser one before the output
    convolution, and the lateral map of the next finer level; a BiFPN calls it once a level and layer. A neck enlarges
    neither its finest level nor levels that are made by downsampling (``p6`` of an FPN).

    Args:
        detector: in eval mode.
        images: float (3, H, W) RGB in 0..1.
        across_ranks: see ``Detector.batch``.
    """
    with recorded_inputs(detector.neck) as inputs:
        pyramid = detector.pyramid(images, across_ranks)
    levels = {stride: level for level, stride in detector.neck.strides.items()}
    finest = min(levels)
    padded_width = pyramid[levels[finest]].shape[-1] * finest  # the width of each map is this divided by its stride
    # A neck with an interpolator for each step passes the number of the step along.
    return pyramid, [UpsamplingCall(levels[padded_width // maps[0].shape[-1]], *maps[:2]) for maps in inputs]
