"""Plots of losses, learning rate and accuracy over steps, and of the feature distance of stage 1."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from afictl.errors import UserError
from afictl.interpolators import learned_kinds
from afictl.run_records import MetricsRecord, read_metrics
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.palette import LINE_COLORS, rgb_fractions
from afictl.visualization.plotting import (
    MARKERS,
    legend_name,
    line_styles,
    literal_names,
    repeated_style_warning,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.lines import Line2D

_MARKERS_PER_LINE = 8  # for curves with values at many steps
_LEGEND_ROWS = 14  # rows of a legend in the height of a plot
_EXTRA_WIDTH, _MAX_EXTRA_WIDTH = 2.5, 10.0  # of a line for every equal one that is drawn over it
_COLUMNS = 3
_PLOT_INCHES = (5.0, 3.6)
_MAX_RAW_VALUES = 120  # longer loss curves are running means over a sixtieth of their values
_LOSS_SUM = "sum of losses"
_WORDS = {"rpn": "RPN", "reg": "regression", "l1": "L1", "iou": "IoU"}
_MARGIN = 1.05
_ACCURACY = {
    "box/AP": ("Box AP, held out", "points"),
    "mask/AP": ("Mask AP, held out", "points"),
    "l1": ("Distance to the guide, held out", "L1"),
    "cosine": ("Cosine similarity to the guide, held out", "cosine"),
    "discriminator_accuracy": ("Discriminator accuracy, held out", "fraction"),
}
"""Title and unit by metric; ``l1`` and ``cosine`` are those of the learned interpolator in stages 1 and 2."""


class _Curve(NamedTuple):
    key: str
    title: str
    unit: str
    noisy: bool
    """Whether it is logged at many steps, not only at evaluations."""


def plot_training(runs: Mapping[str, Path], path: Path) -> None:
    """Plot every loss, their sum, the learning rate and the accuracy over steps, with one line per run.

    Runs ``NAME/seedK`` of one method share a colour and a marker.

    Args:
        runs: run folder by the name in the legend.
        path: picture to write, ``.png`` or ``.svg``.

    Raises:
        UserError: a folder that is not a run.
    """
    records = {name: read_metrics(folder) for name, folder in runs.items()}
    curves = _curves(records)
    rows = -(-len(curves) // _COLUMNS)
    with literal_names(records):
        figure, axes = _subplots(min(_COLUMNS, len(curves)), rows)
        for axis in axes[len(curves) :]:
            axis.set_axis_off()
        for axis, curve in zip(axes, curves, strict=False):
            _plot(axis, curve, records)
        figure.suptitle(repeated_style_warning(records))
        _write_legend(figure, axes[len(curves) :], records)
        save_figure(figure, path)


def training_panels(runs: Mapping[str, Path]) -> Figure:
    """The curves of ``plot_training`` as panels of one figure for a page, with the last accuracies as text."""
    records = {name: read_metrics(folder) for name, folder in runs.items()}
    with literal_names(records):
        panels = [Panel(_render(_legend_figure(records)), "Runs", repeated_style_warning(records))]
        for curve in _curves(records):
            figure, (axis,) = _subplots(1, 1)
            _plot(axis, curve, records)
            axis.set_title("")
            panels.append(Panel(_render(figure), curve.title, curve.unit))
    return Figure("training", panels, "Training", ". ".join(_summary(*run) for run in records.items()) + ".", columns=3)


def plot_feature_distance(distance: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Plot L1 and cosine of stage 1 on held-out images as bars for each level and method."""
    with literal_names(distance):
        save_figure(_distance_bars(distance), path)


def _distance_bars(distance: Mapping[str, Mapping[str, Mapping[str, float]]]) -> MatplotlibFigure:
    figure, axes = _subplots(2)
    levels = list(next(iter(distance.values())))
    width = 0.8 / len(distance)
    for axis, (measure, title) in zip(
        axes,
        (("l1", "L1 distance, lower is better"), ("cosine", "Cosine similarity, higher is better")),
        strict=True,
    ):
        for k, ((method, values), color) in enumerate(zip(distance.items(), cycle(LINE_COLORS), strict=False)):
            positions = [x + (k - (len(distance) - 1) / 2) * width for x in range(len(levels))]
            heights = [values[level][measure] for level in levels]
            axis.bar(positions, heights, width, label=legend_name(method), color=rgb_fractions(color))
        axis.set_xticks(range(len(levels)), levels)
        axis.set(title=title, xlabel="pyramid level")
    axes[0].legend()
    return figure


def _curves(records: Mapping[str, Sequence[MetricsRecord]]) -> list[_Curve]:
    """Curves of all metrics of any run, accuracy first."""
    keys = dict.fromkeys(key for run in records.values() for record in run for key in record)
    losses = [key for key in keys if key.startswith("loss_")]
    curves = [
        _Curve(key, *names, False)
        for key, names in _ACCURACY.items()
        if any(name in keys for name in _metric_names(key))
    ]
    if len(losses) > 1:
        curves.append(_Curve(_LOSS_SUM, "Sum of losses", "", True))
    curves += [_Curve(key, _loss_title(key), "", True) for key in losses]
    if "lr" in keys:
        curves.append(_Curve("lr", "Learning rate", "", False))
    if not curves:
        raise UserError(f"no losses or accuracies yet: {', '.join(records)}")
    return curves


def _metric_names(key: str) -> list[str]:
    """Names of a curve in ``metrics.jsonl``: ``l1/KIND`` for ``l1``."""
    return [f"{key}/{kind}" for kind in learned_kinds()] if key in ("l1", "cosine") else [key]


def _metric(record: MetricsRecord, key: str) -> float | None:
    return next((record[name] for name in _metric_names(key) if name in record), None)


def _loss_title(key: str) -> str:
    """``loss_rpn_box_reg`` as ``RPN box regression loss``."""
    words = [_WORDS.get(word, word) for word in key.removeprefix("loss_").split("_")]
    return f"{words[0][0].upper()}{words[0][1:]} {' '.join([*words[1:], 'loss'])}"


def _values(curve: _Curve, records: Sequence[MetricsRecord]) -> tuple[list[int], list[float]]:
    """Steps and values of a curve for one run."""
    pairs = []
    for record in records:
        value = _metric(record, curve.key)
        if curve.key == _LOSS_SUM and "lr" in record:
            value = sum(v for k, v in record.items() if k.startswith("loss_"))
        if isinstance(value, int | float) and math.isfinite(value):
            pairs.append((record["step"], float(value)))
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    if curve.noisy and len(values) > _MAX_RAW_VALUES:
        window = len(values) // (_MAX_RAW_VALUES // 2)
        values = np.convolve(values, np.ones(window) / window, mode="valid").tolist()
        steps = steps[window - 1 :]
    return steps, values


def _plot(axis: Axes, curve: _Curve, records: Mapping[str, Sequence[MetricsRecord]]) -> None:
    series = {name: _values(curve, run) for name, run in records.items()}
    for k, (name, style) in enumerate(line_styles(records)):
        steps, values = series[name]
        if curve.key not in _ACCURACY and len(steps) > 1:
            marker = {"marker": None} if style["marker"] == MARKERS[0] else {}
            style = {**style, **marker, "markevery": max(1, len(steps) // _MARKERS_PER_LINE)}
        covering = sum(other == series[name] for other in list(series.values())[k + 1 :])
        extra = min(_EXTRA_WIDTH * covering, _MAX_EXTRA_WIDTH)  # equal lines, such as rates, remain visible
        style = {**style, "linewidth": style["linewidth"] + extra, "markersize": style["markersize"] + extra}
        axis.plot(steps, values, label=legend_name(name), **style)
    axis.set(title=curve.title, xlabel="step", ylabel=curve.unit)
    # all panels have the same step axis, from 0 to the last step of any run
    axis.set_xlim(0, _MARGIN * max(run[-1]["step"] for run in records.values()) or None)
    low, high = axis.dataLim.intervaly
    if curve.unit == "points" and 0 <= high - low < 1:  # a small difference must not appear large
        axis.set_ylim((low + high - 1) / 2, (low + high + 1) / 2)
    if curve.unit == "points" and axis.get_ylim()[0] < 0:
        axis.set_ylim(0, axis.get_ylim()[1] - axis.get_ylim()[0])


def _legend_handles(axis: Axes, names: Collection[str]) -> list[Line2D]:
    return [axis.plot([], [], label=legend_name(name), **style)[0] for name, style in line_styles(names)]


def _write_legend(figure: MatplotlibFigure, unused: Sequence[Axes], names: Collection[str]) -> None:
    """Draw the legend in the unused panels if there is room, or below all panels."""
    columns = -(-len(names) // _LEGEND_ROWS)
    handles = _legend_handles(figure.axes[0], names)
    entry_inches = 0.6 + 0.085 * max(map(len, names))  # estimate for wide names
    if columns * entry_inches < len(unused) * _PLOT_INCHES[0]:
        legend = unused[0].legend(handles=handles, loc="upper left", ncols=columns, frameon=False)
        legend.set_in_layout(False)  # it may extend over the next unused panel
    else:
        columns = min(4, len(names), max(1, int(figure.get_figwidth() / entry_inches)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _legend_figure(names: Collection[str]) -> MatplotlibFigure:
    """A figure with only the legend, at least as large as a plot."""
    figure, (axis,) = _subplots(1, 1)
    axis.set_axis_off()
    columns = min(3, -(-len(names) // _LEGEND_ROWS))
    legend = axis.legend(
        handles=_legend_handles(axis, names), loc="upper left", ncols=columns, frameon=False, fontsize=11
    )
    box = legend.get_window_extent(_canvas(figure).get_renderer())
    size_inches = np.array((box.width, box.height)) / figure.dpi + 0.2
    figure.set_size_inches(np.maximum(figure.get_size_inches(), size_inches))
    return figure


def _summary(name: str, records: Sequence[MetricsRecord]) -> str:
    summary = f"{name}: {records[-1]['step']} steps"
    for key, (title, _) in _ACCURACY.items():
        values = [value for value in (_metric(record, key) for record in records) if value is not None]
        if values:
            summary += f", {title.split(',')[0].lower().replace('ap', 'AP')} {values[-1]:.3g}"
    return summary


def _subplots(columns: int, rows: int = 1) -> tuple[MatplotlibFigure, Sequence[Axes]]:
    from matplotlib.figure import Figure as MatplotlibFigure  # without pyplot: no display, no global state

    figure = MatplotlibFigure(
        figsize=(_PLOT_INCHES[0] * columns, _PLOT_INCHES[1] * rows), layout="constrained", dpi=150
    )
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes


def _canvas(figure: MatplotlibFigure) -> FigureCanvasAgg:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg(figure)


def _render(figure: MatplotlibFigure) -> Image.Image:
    canvas = _canvas(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
