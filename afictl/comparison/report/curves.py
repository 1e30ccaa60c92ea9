"""Training curves: loss and accuracy over steps, one line for each method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afictl.comparison.report.plots import TEXT, WIDTHS, Frame, Scale, fitted, frame, padded, spread
from afictl.comparison.results import Comparison
from afictl.errors import UserError
from afictl.visualization.training_curves import read_metrics

_POINTS = 100
"""Most points of a line: more cannot be seen, and a long run has thousands."""
_LABELS = {"wide": 140, "narrow": 132}
"""Pixels at the right for the names."""

Curve = list[tuple[float, float]]
"""Steps and values."""


@dataclass(frozen=True)
class Line:
    """The curve of one method in pixels: mean over its seeds, and each seed."""

    series: int
    name: str
    mean: str
    """Points of an SVG polyline."""
    seeds: tuple[str, ...]
    """Empty with one seed."""
    end: tuple[float, float]
    label: str
    label_y: float


@dataclass(frozen=True)
class Curves:
    """One plot at one width."""

    width: float
    frame: Frame
    label_x: float
    lines: tuple[Line, ...]


def curve_plots(comparison: Comparison) -> list[tuple[str, dict[str, Curves]]]:
    """Loss, box AP and mask AP, as far as the runs recorded them: title and plot by width."""
    records = {
        series: [_records(cell.folder) for cell in method.runs] for series, method in enumerate(comparison.methods)
    }
    names = [method.name for method in comparison.methods]
    plots = []
    for title, axis, read in (
        ("Training loss", "sum of losses", _loss),
        ("Held-out box AP", "box AP, points", lambda record: record.get("box/AP")),
        ("Held-out mask AP", "mask AP, points", lambda record: record.get("mask/AP")),
    ):
        curves = {series: [_curve(run, read) for run in runs] for series, runs in records.items()}
        curves = {series: kept for series, runs in curves.items() if (kept := [curve for curve in runs if curve])}
        if curves:
            plots.append((title, {name: _plot(curves, names, name, axis) for name in WIDTHS}))
    return plots


def mean_curve(curves: Sequence[Curve], limit: int = _POINTS) -> Curve:
    """The mean of several curves, in at most ``limit`` + 1 sections of equal length where they have more points."""
    width = max(1, math.ceil(max(step for curve in curves for step, _ in curve) / limit))
    sections: dict[int, Curve] = {}
    for curve in curves:
        for step, value in curve:
            sections.setdefault(int(step // width), []).append((step, value))
    return [
        (statistics.fmean(step for step, _ in part), statistics.fmean(value for _, value in part))
        for _, part in sorted(sections.items())
    ]


def _records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; none where there is no file."""
    try:
        return read_metrics(folder)
    except (OSError, UserError):
        return []


def _loss(record: Mapping[str, Any]) -> float | None:
    losses = [value for name, value in record.items() if name.startswith("loss_")]
    return sum(losses) if losses and "lr" in record else None


def _curve(records: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], float | None]) -> Curve:
    values = [(float(record["step"]), read(record)) for record in records]
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def _plot(curves: Mapping[int, Sequence[Curve]], names: Sequence[str], width: str, y_title: str) -> Curves:
    means = {series: mean_curve(runs) for series, runs in curves.items()}
    steps = [step for curve in means.values() for step, _ in curve]
    values = [value for runs in curves.values() for run in runs for _, value in mean_curve([run])]
    size = (WIDTHS[width] - _LABELS[width], max(300, (TEXT + 4) * len(curves) + 80))
    x_range = padded([0.0, *steps], share=0.0)
    axes, x, y = frame(size, x_range, padded(values, share=0.04, least=1e-3), ("step", y_title))
    ends = {series: (x(curve[-1][0]), y(curve[-1][1])) for series, curve in means.items()}
    heights = spread([end[1] for end in ends.values()], TEXT + 4, axes.top + 4, axes.bottom)
    lines = [
        Line(
            series,
            names[series],
            _polyline(mean, x, y),
            tuple(_polyline(mean_curve([run]), x, y) for run in curves[series]) if len(curves[series]) > 1 else (),
            ends[series],
            fitted(names[series], _LABELS[width] - 26),
            round(height, 1),
        )
        for (series, mean), height in zip(means.items(), heights, strict=True)
    ]
    return Curves(WIDTHS[width], axes, axes.right + 22, tuple(lines))


def _polyline(curve: Curve, x: Scale, y: Scale) -> str:
    return " ".join(f"{x(step):g},{y(value):g}" for step, value in curve)
