"""Parameters, multiply-adds, time and memory of detectors and their interpolators, measured on equal images."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from afictl.comparison.cost.profiling import peak_bytes, time_scatter
from afictl.comparison.results import Cost
from afictl.data import Dataset, eval_batches
from afictl.data.image_listing import require_images
from afictl.detectors import Detector, model_cost
from afictl.detectors.upsampling_calls import recorded_inputs
from afictl.presets import InputConfig
from afictl.progress import ProgressCallback
from afictl.timing import synchronized_time

_NUM_IMAGES = 8
_MIN_ROUNDS = 3
_MIN_PASSES = 6


@dataclass(frozen=True)
class _Times:
    """Seconds of each pass through a detector, and of all calls of its interpolator in that pass."""

    detector: list[float] = field(default_factory=list)
    interpolator: list[float] = field(default_factory=list)


def cost_images(config: InputConfig, dataset: Dataset | None = None) -> list[Tensor]:
    """Images for ``measure_costs``: the first eight of ``dataset``, or one of noise at the largest size of evaluation.

    Each is float (3,H,W) in 0..1, resized as in evaluation.

    Raises:
        UserError: an image that cannot be read.
    """
    if dataset is None:
        return [torch.rand(3, *config.largest_hw, generator=torch.Generator().manual_seed(0))]
    require_images(dataset, range(len(dataset))[:_NUM_IMAGES])
    return [image for batch in eval_batches(dataset, config, workers=0, limit=_NUM_IMAGES) for image in batch.images]


@torch.no_grad()
def measure_costs(
    detectors: Mapping[str, Detector],
    images: Sequence[Tensor],
    progress: ProgressCallback | None = None,
) -> dict[str, Cost]:
    """Measure detectors in eval mode, which is not reset, one image at a time.

    Times are medians of at least six passes after a warm-up round; the detectors alternate on each image, so that other
    load on the machine affects all alike. Multiply-adds and memory are those of the most frequent image size.
    Computations run in the precision of the surrounding autocast.

    Args:
        detectors: detectors by name, on any device; their weights affect only the number of detections.
        images: at least one of ``cost_images``.
        progress: called with the number of passes done and of all passes.
    """
    for detector in detectors.values():
        detector.eval()
    hw = Counter((image.shape[-2], image.shape[-1]) for image in images).most_common(1)[0][0]
    typical = next(image for image in images if image.shape[-2:] == hw)
    peaks = {name: _peaks(detector, typical) for name, detector in detectors.items()}
    times = _measure_times(detectors, images, progress)
    scatters = {name: time_scatter(value.detector, len(images)) for name, value in times.items()}
    return {name: _cost(detector, hw, times[name], peaks[name], scatters[name]) for name, detector in detectors.items()}


def _cost(detector: Detector, image_hw: tuple[int, int], times: _Times, peaks: tuple[int, int], scatter: float) -> Cost:
    parts = model_cost(detector, image_hw)
    interpolator = next(part for part in parts if part.name == "interpolator")
    return Cost(
        image_hw=image_hw,
        parameters=sum(part.parameters for part in parts),
        interpolator_parameters=interpolator.parameters,
        multiply_adds=sum(part.multiply_adds for part in parts),
        interpolator_multiply_adds=interpolator.multiply_adds,
        milliseconds=1000 * statistics.median(times.detector),
        interpolator_milliseconds=1000 * statistics.median(times.interpolator),
        peak_bytes=peaks[0],
        interpolator_peak_bytes=peaks[1],
        scatter=scatter,
    )


def _peaks(detector: Detector, image: Tensor) -> tuple[int, int]:
    """Peak memory in bytes of a detection, and of the interpolator's most expensive call in it."""
    device = detector.pixel_mean.device
    image = image.to(device)
    detector_peak = peak_bytes(lambda: detector([image]), device)
    interpolator = detector.neck.interpolator
    with recorded_inputs(detector.neck) as calls:
        detector.pyramid([image])
    return detector_peak, max(peak_bytes(partial(interpolator, *inputs), device) for inputs in calls)


def _measure_times(
    detectors: Mapping[str, Detector], images: Sequence[Tensor], progress: ProgressCallback | None
) -> dict[str, _Times]:
    """Time all rounds, after a warm-up round that is not recorded."""
    times = {name: _Times() for name in detectors}
    num_rounds = max(_MIN_ROUNDS, math.ceil(_MIN_PASSES / len(images)))
    passes = [(is_recorded, image) for is_recorded in (False, *[True] * num_rounds) for image in images]
    for number, (is_recorded, image) in enumerate(passes, start=1):
        for name, detector in detectors.items():
            detector_seconds, interpolator_seconds = _time(detector, image)
            if is_recorded:
                times[name].detector.append(detector_seconds)
                times[name].interpolator.append(interpolator_seconds)
        if progress is not None:
            progress(number * len(detectors), len(passes) * len(detectors))
    return times


def _time(detector: Detector, image: Tensor) -> tuple[float, float]:
    """Seconds of a detection, and of all calls of the interpolator in it."""
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
        detector_seconds = synchronized_time(device) - start
    finally:
        for hook in hooks:
            hook.remove()
    return detector_seconds, sum(end - begin for begin, end in zip(times[::2], times[1::2], strict=True))
