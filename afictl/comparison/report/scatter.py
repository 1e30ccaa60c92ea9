"""Accuracy against cost: where each point, its interval and its label stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afictl.comparison.report.plots import (
    TEXT,
    WIDTHS,
    Frame,
    Rectangle,
    Scale,
    fitted,
    frame,
    label_places,
    leader_end,
    padded,
    text_width,
)
from afictl.comparison.report.table import kinds_of
from afictl.comparison.results import Comparison, Cost, MethodResult

COSTS: tuple[tuple[str, str, Callable[[Cost], float]], ...] = (
    ("Multiply-adds", "multiply-adds of the detector, G", lambda price: price.multiply_adds / 1e9),
    ("Forward time", "forward pass, ms", lambda price: price.milliseconds),
    ("Peak memory", "peak memory of a forward pass, MiB", lambda price: price.peak_bytes / 2**20),
    ("Parameters", "parameters of the detector, M", lambda price: price.parameters / 1e6),
)
_MOST_STRETCH = 2.0
"""An interval widens the plot up to this many times the spread of the means; longer ones end in an arrow."""

_SIGN = 20
"""Pixels of a label beside its name: for the marker in front of it and for an edge."""


@dataclass(frozen=True)
class Mark:
    """One method: its point, interval and label, in pixels."""

    series: int
    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    cut: tuple[bool, bool]
    """Whether the interval goes on below and above the plot."""
    solid: bool
    """Whether its difference is claimed."""
    label: str
    place: Rectangle | None
    """Of the label, in which the marker stands again before the name; None where there is no room."""
    leader: tuple[float, float] | None
    """Where the line to the label ends, where it is so far away that it needs one."""


@dataclass(frozen=True)
class Scatter:
    """One plot at one width."""

    frame: Frame
    baseline: float | None
    """Height of the baseline's mean."""
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class _Point:
    series: int
    method: MethodResult
    cost: float
    mean: float
    low: float | None
    high: float | None
    claimed: bool


def scatter_panes(comparison: Comparison) -> list[tuple[str, list[tuple[str, dict[str, Scatter]]]]]:
    """For each cost, for each kind of AP, the plot by width; empty without any priced and measured method."""
    kinds = kinds_of(comparison)
    panes = []
    for title, axis, cost in COSTS:
        plots = []
        for kind in kinds:
            points = _points(comparison, f"{kind}/AP", cost)
            titles = (axis, f"{kind} AP, points")
            if points:
                plots.append((kind, {name: _scatter(points, width, titles) for name, width in WIDTHS.items()}))
        if plots:
            panes.append((title, plots))
    return panes


def _points(comparison: Comparison, metric: str, cost: Callable[[Cost], float]) -> list[_Point]:
    points = []
    for series, method in enumerate(comparison.methods):
        mean, found = method.mean.get(metric), method.difference.get(metric)
        if mean is None or method.cost is None:
            continue
        low = high = None
        if found is not None and found.low is not None and found.high is not None:
            low, high = mean + found.low - found.mean, mean + found.high - found.mean
        points.append(_Point(series, method, cost(method.cost), mean, low, high, bool(found and found.claimed)))
    return points


def _scatter(points: Sequence[_Point], width: float, titles: tuple[str, str]) -> Scatter:
    height = max(340, 24 * len(points) + 80)
    axes, x, y = frame((width, height), _x_range(points), _y_range(points), titles)
    at = [(x(point.cost), y(point.mean)) for point in points]
    labels = [fitted(point.method.name, 0.4 * width) for point in points]
    spans = [_span(point, y) for point in points]
    bars = [
        (px - 2, high, px + 2, low)
        for (px, _), (low, high, _) in zip(at, spans, strict=True)
        if low is not None and high is not None
    ]
    canvas = (axes.left + 2, axes.top, axes.right, axes.bottom)
    places = label_places(at, [_SIGN + text_width(label) for label in labels], bars, canvas)
    marks = [
        Mark(point.series, point.method.name, px, py, *span, point.claimed, label, place, _leader((px, py), place))
        for point, (px, py), span, label, place in zip(points, at, spans, labels, places, strict=True)
    ]
    baseline = next((mark.y for mark in marks if mark.series == 0), None)
    return Scatter(axes, baseline, tuple(marks))


def _x_range(points: Sequence[_Point]) -> tuple[float, float]:
    costs = [point.cost for point in points]
    return padded(costs, share=0.1, least=max(0.1 * max(costs), 1e-3))


def _y_range(points: Sequence[_Point]) -> tuple[float, float]:
    means = [point.mean for point in points]
    low, high = padded(means, share=0.0, least=1.0)
    room = (_MOST_STRETCH - 1) / 2 * (high - low)
    ends = [end for point in points for end in (point.low, point.high) if end is not None]
    kept = [min(max(end, low - room), high + room) for end in ends]
    return padded([*means, *kept], share=0.06, least=1.0)


def _span(point: _Point, y: Scale) -> tuple[float | None, float | None, tuple[bool, bool]]:
    """Pixels of the lower and upper end of the interval, and which of them the plot cuts off."""
    if point.low is None or point.high is None:
        return None, None, (False, False)
    cut = point.low < y.low, point.high > y.high
    return y(max(point.low, y.low)), y(min(point.high, y.high)), cut


def _leader(point: tuple[float, float], place: Rectangle | None) -> tuple[float, float] | None:
    if place is None:
        return None
    end = leader_end(point, place)
    return end if math.dist(point, end) > TEXT else None
