"""Measurement of detectors and of their interpolators: parameters, multiply-adds, time and memory on equal images."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
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

_NUM_IMAGES = 8
_MIN_ROUNDS = 3
_MIN_PASSES = 6


@dataclass(frozen=True)
class _Times:
    """Seconds of each pass through a detector, and of all calls of its interpolator in that pass."""

    whole: list[float] = field(default_factory=list)
    interpolator: list[float] = field(default_factory=list)


def cost_images(config: InputConfig, dataset: Dataset | None = None) -> list[Tensor]:
    """Images for ``measure_costs``, float (3,H,W) in 0..1 at the size of evaluation.

    The first eight of ``dataset``, or one of noise at the largest size of evaluation.

    Raises:
        UserError: an image that cannot be read.
    """
    if dataset is None:
        return [torch.rand(3, *config.largest_hw, generator=torch.Generator().manual_seed(0))]
    return [image for batch in eval_batches(dataset, config, workers=0, limit=_NUM_IMAGES) for image in batch.images]


@torch.no_grad()
def measure_costs(
    detectors: Mapping[str, Detector],
    images: Sequence[Tensor],
    progress: ProgressCallback | None = None,
) -> dict[str, Cost]:
    """Measure every detector in eval mode, in which it is left, one image at a time.

    Time: the detectors alternate on each image, after a warm-up round, so that a slow moment of the machine affects all
    alike; the median of at least six passes. Multiply-adds and memory are those of the most frequent image size.
    Everything runs in the precision of the surrounding autocast.

    Args:
        detectors: by name, on any device; the weights matter only for the number of detections.
        images: at least one, as from ``cost_images``.
        progress: called with the number of passes done and of all passes.
    """
    for detector in detectors.values():
        detector.eval()
    hw = Counter((image.shape[-2], image.shape[-1]) for image in images).most_common(1)[0][0]
    typical = next(image for image in images if image.shape[-2:] == hw)
    peaks = {name: _peaks(detector, typical) for name, detector in detectors.items()}
    times = _alternate(detectors, images, progress)
    return {name: _cost(detector, hw, times[name], peaks[name]) for name, detector in detectors.items()}


def _cost(detector: Detector, image_hw: tuple[int, int], times: _Times, peaks: tuple[int, int]) -> Cost:
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
    """Peak memory in bytes of a whole detection, and of the interpolator's most expensive call in it."""
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


def _alternate(
    detectors: Mapping[str, Detector], images: Sequence[Tensor], progress: ProgressCallback | None
) -> dict[str, _Times]:
    """Time a warm-up round, which is dropped, and then all rounds."""
    times = {name: _Times() for name in detectors}
    num_rounds = max(_MIN_ROUNDS, math.ceil(_MIN_PASSES / len(images)))
    turns = [(is_recorded, image) for is_recorded in (False, *[True] * num_rounds) for image in images]
    for number, (is_recorded, image) in enumerate(turns, start=1):
        for name, detector in detectors.items():
            whole, interpolator = _time(detector, image)
            if is_recorded:
                times[name].whole.append(whole)
                times[name].interpolator.append(interpolator)
        if progress is not None:
            progress(number * len(detectors), len(turns) * len(detectors))
    return times


def _time(detector: Detector, image: Tensor) -> tuple[float, float]:
    """Seconds of a whole detection and, of these, inside the interpolator."""
    device = detector.pixel_mean.device
    image = image.to(device)
    times: list[float] = []

    def append_time(*_: object) -> None:
        times.append(synchronized_time(device))

    interpolator = detector.neck.interpolator
    hooks = [interpolator.register_forward_pre_hook(append_time), interpolator.register_forward_hook(append_time)]
    try:
        start = synchronized_time(device)
        detector([image])
        whole = synchronized_time(device) - start
    finally:
        for hook in hooks:
            hook.remove()
    return whole, sum(end - begin for begin, end in zip(times[::2], times[1::2], strict=True))
