"""What each detector costs for one image, and its interpolator in it."""

from __future__ import annotations

from collections.abc import Mapping

from afictl.comparison.latency import latencies
from afictl.comparison.model import Price
from afictl.data import CocoIndex
from afictl.detectors import Detector
from afictl.detectors.cost import model_cost

_TIMED_IMAGES = 8


def measure_prices(detectors: Mapping[str, Detector], index: CocoIndex) -> dict[str, Price]:
    """The prices of detectors in eval mode; the times of all are taken in turn on the same images."""
    times = latencies(detectors, index, limit=_TIMED_IMAGES)
    prices = {}
    for name, detector in detectors.items():
        parts = model_cost(detector, times[name].image_hw)
        interpolator = [part for part in parts if part.name == "interpolator"]
        prices[name] = Price(
            image_hw=times[name].image_hw,
            parameters=sum(part.parameters for part in parts),
            interpolator_parameters=sum(part.parameters for part in interpolator),
            multiply_adds=sum(part.multiply_adds for part in parts),
            interpolator_multiply_adds=sum(part.multiply_adds for part in interpolator),
            milliseconds=times[name].detector,
            interpolator_milliseconds=times[name].interpolator,
            peak_bytes=0,
            interpolator_peak_bytes=0,
        )
    return prices
