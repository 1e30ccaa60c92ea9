"""The price of detectors and of their interpolators: parameters, work, time and memory on the same images."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from afictl.comparison.cost.profiling import peak_bytes, synchronized_time
from afictl.comparison.results import Cost
from afictl.data import Dataset, eval_batches
from afictl.detectors import Detector, model_cost
from afictl.presets import InputConfig
from afictl.progress import ProgressCallback

_IMAGES = 8
_ROUNDS = 3
_LEAST_PASSES = 6


@dataclass(frozen=True)
class _Times:
    """Seconds of each pass through a detector, and of all calls of its interpolator in it."""

    whole: list[float] = field(default_factory=list)
    interpolator: list[float] = field(default_factory=list)


def cost_images(config: InputConfig, index: Dataset | None = None) -> list[Tensor]:
    """What to measure prices on, float (3, H, W) in 0..1 as detectors are given it.

    The first eight images of ``index`` at the size of evaluation; without data one of noise, as large as an image can
    be at evaluation.

    Raises:
        UserError: an image that cannot be read.
    """
    if index is None:
        return [torch.rand(3, *config.largest_hw, generator=torch.Generator().manual_seed(0))]
    return [image for batch in eval_batches(index, config, workers=0, limit=_IMAGES) for image in batch.images]


@torch.no_grad()
def measure_costs(
    detectors: Mapping[str, Detector],
    images: Sequence[Tensor],
    progress: ProgressCallback | None = None,
) -> dict[str, Cost]:
    """Measure every detector, one image at a time, and put it into eval mode.

    Time: the detectors take turns on each image, after one turn that does not count, so that a slow moment of the
    machine meets all alike; at least six passes each. Work and memory are those of the most frequent image size, memory
    as ``memory.peak_bytes`` measures it. Everything runs in the precision that autocast is set to around the call.

    Args:
        detectors: by name, on any device; the weights matter for the number of detections only.
        images: at least one, as from ``cost_images``.
        progress: called with the number of passes done and of all passes.
    """
    for detector in detectors.values():
        detector.eval()
    hw = Counter((image.shape[-2], image.shape[-1]) for image in images).most_common(1)[0][0]
    typical = next(image for image in images if image.shape[-2:] == hw)
    peaks = {name: _peaks(detector, typical) for name, detector in detectors.items()}
    times = _take_turns(detectors, images, progress)
    return {name: _price(detector, hw, times[name], peaks[name]) for name, detector in detectors.items()}


def _price(detector: Detector, image_hw: tuple[int, int], times: _Times, peaks: tuple[int, int]) -> Cost:
    parts = model_cost(detector, image_hw)
    interpolator = next(part for part in parts if part.name == "interpolator")
    return Cost(
        image_hw=image_hw,
        parameters=sum(part.parameters for part in parts),
        interpolator_parameters=interpolator.parameters,
        multiply_adds=sum(part.multiply_adds for part in parts),
        interpolator_multiply_adds=interpolator.multiply_adds,
        milliseconds=1000 * statistics.median(times.whole),
        interpolator_milliseconds=1000 * statistics.median(times.interpolator),
        peak_bytes=peaks[0],
        interpolator_peak_bytes=peaks[1],
    )


def _peaks(detector: Detector, image: Tensor) -> tuple[int, int]:
    """Peak memory of a whole detection, and of its interpolator's most expensive call."""
    device = detector.pixel_mean.device
    image = image.to(device)
    whole = peak_bytes(lambda: detector([image]), device)
    interpolator = detector.neck.interpolator
    calls: list[tuple[Tensor, ...]] = []
    hook = interpolator.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    try:
        detector.pyramid([image])
    finally:
        hook.remove()
    return whole, max(peak_bytes(partial(interpolator, *inputs), device) for inputs in calls)


def _take_turns(
    detectors: Mapping[str, Detector], images: Sequence[Tensor], progress: ProgressCallback | None
) -> dict[str, _Times]:
    times = {name: _Times() for name in detectors}
    rounds = max(_ROUNDS, math.ceil(_LEAST_PASSES / len(images)))
    turns = [(counts, image) for counts in (False, *[True] * rounds) for image in images]
    for done, (counts, image) in enumerate(turns, start=1):
        for name, detector in detectors.items():
            whole, interpolator = _time(detector, image)
            if counts:
                times[name].whole.append(whole)
                times[name].interpolator.append(interpolator)
        if progress is not None:
            progress(done * len(detectors), len(turns) * len(detectors))
    return times


def _time(detector: Detector, image: Tensor) -> tuple[float, float]:
    """Seconds of a whole detection and, of these, inside the interpolator."""
    device = detector.pixel_mean.device
    image = image.to(device)
    marks: list[float] = []

    def mark(*_: object) -> None:
        marks.append(synchronized_time(device))

    interpolator = detector.neck.interpolator
    hooks = [interpolator.register_forward_pre_hook(mark), interpolator.register_forward_hook(mark)]
    try:
        began = synchronized_time(device)
        detector([image])
        whole = synchronized_time(device) - began
    finally:
        for hook in hooks:
            hook.remove()
    return whole, sum(_gaps(marks))


def _gaps(marks: list[float]) -> Iterable[float]:
    return (end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True))
