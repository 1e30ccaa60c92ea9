"""Forward times of detectors and of their interpolators, taken in turn on the same images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from afictl.data import CocoIndex, eval_batches
from afictl.detectors import Detector

_ROUNDS = 3


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds for one image of size ``image_hw``."""

    detector: float
    interpolator: float
    image_hw: tuple[int, int]


@torch.no_grad()
def latencies(detectors: Mapping[str, Detector], index: CocoIndex, *, limit: int) -> dict[str, Latency]:
    """Time every detector on the first ``limit`` images, one image at a time.

    The detectors take turns on each image, after one uncounted turn, so that a slow moment of the machine meets all.
    The interpolator's time is that of all its calls in one pass through the neck.
    """
    whole: dict[str, list[float]] = {name: [] for name in detectors}
    inside: dict[str, list[float]] = {name: [] for name in detectors}
    sizes: list[tuple[int, int]] = []
    for turn in range(_ROUNDS + 1):
        view = next(iter(detectors.values())).input
        for batch in eval_batches(index, view, workers=0, limit=limit):
            image = batch.images[0]
            sizes.append((image.shape[-2], image.shape[-1]))
            for name, detector in detectors.items():
                seconds, calls = _time_detector(detector, image)
                if turn:
                    whole[name].append(seconds)
                    inside[name].append(calls)
    size = statistics.mode(sizes)
    return {
        name: Latency(1000 * statistics.median(whole[name]), 1000 * statistics.median(inside[name]), size)
        for name in detectors
    }


def _time_detector(detector: Detector, image: Tensor) -> tuple[float, float]:
    """Seconds of a whole detection and, of these, inside the interpolator."""
    device = next(detector.parameters()).device
    marks: list[float] = []

    def mark(*_: object) -> None:
        _synchronize(device)
        marks.append(time.perf_counter())

    interpolator = detector.neck.interpolator
    hooks = [interpolator.register_forward_pre_hook(mark), interpolator.register_forward_hook(mark)]
    try:
        seconds = _timed(lambda: detector([image.to(device)]), device)
    finally:
        for hook in hooks:
            hook.remove()
    return seconds, sum(_gaps(marks))


def _timed(call: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    began = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - began


def _gaps(marks: list[float]) -> Iterable[float]:
    return (end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
