"""Scatter plots of accuracy against cost: points, intervals and labels in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from afictl.comparison.analysis.cost_columns import COST_COLUMNS, CostColumn
from afictl.comparison.report.plot_layout import (
    FONT_PX,
    WIDTHS_PX,
    Axes,
    Scale,
    leader_end,
    make_axes,
    padded_range,
    place_point_labels,
)
from afictl.comparison.results import Comparison, MethodResult
from afictl.visualization.label_placement import Rectangle
from afictl.visualization.text import fit_text, text_width

_MAX_STRETCH = 2.0
"""Intervals extend the y range up to this multiple of the range of the means; longer ones end in an arrow."""
_LABEL_EXTRA_PX = 20
"""Width of a label in addition to its text: the marker before the text, and a margin."""


@dataclass(frozen=True)
class ScatterPoint:
    """One method: its point, interval and label, in pixels."""

    method_index: int
    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    clipped: tuple[bool, bool]
    """Whether the interval extends beyond the plot at the lower and at the upper end."""
    claimed: bool
    """Whether the difference to the baseline is claimed."""
    label: str
    label_box: Rectangle | None
    """Rectangle of label and marker; None without room."""
    leader: tuple[float, float] | None
    """End of the leader line to a distant label."""


@dataclass(frozen=True)
class ScatterPlot:
    """One plot at one width."""

    axes: Axes
    baseline: float | None
    """y of the baseline's mean."""
    points: tuple[ScatterPoint, ...]


@dataclass(frozen=True)
class _Measurement:
    method_index: int
    method: MethodResult
    cost: float
    mean: float
    low: float | None
    high: float | None
    claimed: bool


def plot_accuracy_against_costs(
    comparison: Comparison,
) -> list[tuple[str, list[tuple[str, dict[str, ScatterPlot]]]]]:
    """Plots of each cost (title) and kind of AP, by width; empty unless a method has both cost and accuracy."""
    costs = []
    # Parameters come last: their number is a poor measure of speed.
    for column in sorted(COST_COLUMNS, key=lambda column: column.key == "parameters"):
        plots = []
        for kind in comparison.kinds if column.inference else ():
            measurements = _measurements(comparison, f"{kind}/AP", column)
            titles = (f"{column.title}, {column.unit}", f"{kind} AP, points")
            if measurements:
                plots.append((kind, {name: _plot(measurements, width, titles) for name, width in WIDTHS_PX.items()}))
        if plots:
            costs.append((column.title, plots))
    return costs


def _measurements(comparison: Comparison, metric: str, column: CostColumn) -> list[_Measurement]:
    measurements = []
    for index, method in enumerate(comparison.methods):
        mean, cost, difference = method.mean.get(metric), column.getter(method), method.difference.get(metric)
        if mean is None or cost is None:
            continue
        low = high = None
        if difference is not None and difference.low is not None and difference.high is not None:
            low, high = mean + difference.low - difference.mean, mean + difference.high - difference.mean
        claimed = bool(difference and difference.claimed)
        measurements.append(_Measurement(index, method, cost / column.scale, mean, low, high, claimed))
    return measurements


def _plot(measurements: Sequence[_Measurement], width: float, titles: tuple[str, str]) -> ScatterPlot:
    height = max(340, 24 * len(measurements) + 80)
    axes, x, y = make_axes((width, height), _x_range(measurements), _y_range(measurements), titles)
    positions = [(x(item.cost), y(item.mean)) for item in measurements]
    labels = [fit_text(item.method.name, FONT_PX, 0.4 * width) for item in measurements]
    intervals = [_interval(item, y) for item in measurements]
    bars = [
        (px - 2, high, px + 2, low)
        for (px, _), (low, high, _) in zip(positions, intervals, strict=True)
        if low is not None and high is not None
    ]
    canvas = (axes.left + 2, axes.top, axes.right, axes.bottom)
    boxes = place_point_labels(
        positions, [_LABEL_EXTRA_PX + text_width(label, FONT_PX) for label in labels], bars, canvas
    )
    points = [
        ScatterPoint(
            item.method_index, item.method.name, px, py, *interval, item.claimed, label, box, _leader((px, py), box)
        )
        for item, (px, py), interval, label, box in zip(measurements, positions, intervals, labels, boxes, strict=True)
    ]
    baseline = next((point.y for point in points if point.method_index == 0), None)
    return ScatterPlot(axes, baseline, tuple(points))


def _x_range(measurements: Sequence[_Measurement]) -> tuple[float, float]:
    costs = [item.cost for item in measurements]
    return padded_range(costs, margin=0.1, min_span=max(0.1 * max(costs), 1e-3))


def _y_range(measurements: Sequence[_Measurement]) -> tuple[float, float]:
    means = [item.mean for item in measurements]
    low, high = padded_range(means, margin=0.0, min_span=1.0)
    extension = (_MAX_STRETCH - 1) / 2 * (high - low)
    ends = [end for item in measurements for end in (item.low, item.high) if end is not None]
    clamped = [min(max(end, low - extension), high + extension) for end in ends]
    return padded_range([*means, *clamped], margin=0.06, min_span=1.0)


def _interval(item: _Measurement, y: Scale) -> tuple[float | None, float | None, tuple[bool, bool]]:
    """Lower and upper end of the interval in pixels, and whether each of them is clipped."""
    if item.low is None or item.high is None:
        return None, None, (False, False)
    clipped = item.low < y.low, item.high > y.high
    return y(max(item.low, y.low)), y(min(item.high, y.high)), clipped


def _leader(position: tuple[float, float], label_box: Rectangle | None) -> tuple[float, float] | None:
    if label_box is None:
        return None
    end = leader_end(position, label_box)
    return end if math.dist(position, end) > FONT_PX else None
