"""Training curves of the report: loss and accuracy over steps, one line per method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afictl.comparison.report.plot_layout import (
    FONT_PX,
    WIDTHS_PX,
    Axes,
    Scale,
    distribute,
    make_axes,
    padded_range,
)
from afictl.comparison.results import Comparison
from afictl.errors import UserError
from afictl.run_records import MetricsRecord, read_metrics
from afictl.visualization.text import fit_text

_MAX_POINTS = 100
"""Maximum number of points per line; more are not visible."""
_LABEL_PX = {"wide": 140, "narrow": 132}
"""Width of the labels at the right of a plot, by plot width."""

Curve = list[tuple[float, float]]
"""Pairs of step and value."""


@dataclass(frozen=True)
class CurveLine:
    """The curve of one method in pixels: mean over its seeds, and each seed."""

    method_index: int
    name: str
    mean: str
    """Points of an SVG polyline."""
    seeds: tuple[str, ...]
    """Polyline of each seed; empty for one seed."""
    end: tuple[float, float]
    label: str
    label_y: float


@dataclass(frozen=True)
class CurvePlot:
    """One plot at one width."""

    width: float
    axes: Axes
    label_x: float
    lines: tuple[CurveLine, ...]


def plot_curves(comparison: Comparison) -> list[tuple[str, dict[str, CurvePlot]]]:
    """Title and plots by width for the loss, box AP and mask AP, where they are logged."""
    records = {index: [_read_records(run.folder) for run in m.runs] for index, m in enumerate(comparison.methods)}
    names = [method.name for method in comparison.methods]
    plots = []
    for title, y_title, read_value in (
        ("Training loss", "sum of losses", _loss),
        ("Held-out box AP", "box AP, points", lambda record: record.get("box/AP")),
        ("Held-out mask AP", "mask AP, points", lambda record: record.get("mask/AP")),
    ):
        curves = {}
        for index, runs in records.items():
            method_curves = [curve for curve in (_curve(run, read_value) for run in runs) if curve]
            if method_curves:
                curves[index] = method_curves
        if curves:
            plots.append((title, {width: _plot(curves, names, width, y_title) for width in WIDTHS_PX}))
    return plots


def mean_curve(curves: Sequence[Curve], max_points: int = _MAX_POINTS) -> Curve:
    """Mean of several curves; long ones are averaged in at most ``max_points`` + 1 sections of equal length."""
    section_steps = max(1, math.ceil(max(step for curve in curves for step, _ in curve) / max_points))
    sections: dict[int, Curve] = {}
    for curve in curves:
        for step, value in curve:
            sections.setdefault(int(step // section_steps), []).append((step, value))
    return [
        (statistics.fmean(step for step, _ in points), statistics.fmean(value for _, value in points))
        for _, points in sorted(sections.items())
    ]


def _read_records(folder: Path) -> list[MetricsRecord]:
    """Metrics of a run; empty without a valid file, see ``record_faults``."""
    try:
        return read_metrics(folder)
    except (OSError, UserError):
        return []


def _loss(record: MetricsRecord) -> float | None:
    losses = [value for name, value in record.items() if name.startswith("loss_")]
    return sum(losses) if losses and "lr" in record else None


def _curve(records: Sequence[MetricsRecord], read_value: Callable[[MetricsRecord], float | None]) -> Curve:
    values = [(float(record["step"]), read_value(record)) for record in records]
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def _plot(curves: Mapping[int, Sequence[Curve]], names: Sequence[str], width: str, y_title: str) -> CurvePlot:
    means = {index: mean_curve(runs) for index, runs in curves.items()}
    steps = [step for curve in means.values() for step, _ in curve]
    values = [value for runs in curves.values() for run in runs for _, value in mean_curve([run])]
    size = (WIDTHS_PX[width] - _LABEL_PX[width], max(300, (FONT_PX + 4) * len(curves) + 80))
    x_range = padded_range([0.0, *steps], margin=0.0)
    axes, x, y = make_axes(size, x_range, padded_range(values, margin=0.04, min_span=1e-3), ("step", y_title))
    ends = {index: (x(curve[-1][0]), y(curve[-1][1])) for index, curve in means.items()}
    label_ys = distribute([end[1] for end in ends.values()], FONT_PX + 4, axes.top + 4, axes.bottom)
    lines = [
        CurveLine(
            index,
            names[index],
            _polyline(mean, x, y),
            tuple(_polyline(mean_curve([run]), x, y) for run in curves[index]) if len(curves[index]) > 1 else (),
            ends[index],
            fit_text(names[index], FONT_PX, _LABEL_PX[width] - 26),
            round(label_y, 1),
        )
        for (index, mean), label_y in zip(means.items(), label_ys, strict=True)
    ]
    return CurvePlot(WIDTHS_PX[width], axes, axes.right + 22, tuple(lines))


def _polyline(curve: Curve, x: Scale, y: Scale) -> str:
    return " ".join(f"{x(step):g},{y(value):g}" for step, value in curve)
