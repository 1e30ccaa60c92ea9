"""Plots of what runs recorded: losses, learning rate and accuracy over steps, and the feature distance of stage 1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from afictl.errors import UserError
from afictl.run_folder import METRICS, list_runs_below
from afictl.visualization.charts import legend_name, names_as_written, save
from afictl.visualization.curve_styles import MARKERS, alike, colours, styled
from afictl.visualization.figure import Figure, Panel

_MARKS = 8  # of a curve that has a value at many steps
_ROWS = 14  # of a legend in the height of a plot
_COLUMNS = 3
_PLOT = (5.0, 3.6)  # inches
_POINTS = 120  # records from which losses are shown as running means, of a sixtieth of them
_WORDS = {"rpn": "RPN", "reg": "regression", "l1": "L1", "iou": "IoU"}
_MARGIN = 1.05
_ACCURACY = {
    "box/AP": ("Box AP, held out", "points"),
    "mask/AP": ("Mask AP, held out", "points"),
    "l1/afi": ("Distance to the guide, held out", "L1"),
    "cosine/afi": ("Likeness to the guide, held out", "cosine"),
}


class _Curve(NamedTuple):
    key: str
    title: str
    unit: str
    noisy: bool
    """Recorded at many steps, not at evaluations."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, in the order in which they were written; of a line that a crash cut short, nothing.

    Raises:
        UserError: the folder is no run, or has recorded nothing yet.
    """
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder} holds no {METRICS}, so it is no run{list_runs_below(folder)}")
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    if not records:
        raise UserError(f"{path}: nothing was recorded yet")
    return records


def plot_training(runs: Mapping[str, Path], path: Path) -> None:
    """Every loss, their sum, the learning rate and the accuracy over steps, a line for each named run folder.

    Runs called ``NAME/seedK`` share a colour and a marker. Where more are given than can be told apart, a note says so.

    Args:
        runs: run folder by the name in the legend.
        path: picture to write; its suffix, ``.png`` or ``.svg``, is its format.

    Raises:
        UserError: a folder that is no run.
    """
    records = {name: read_metrics(folder) for name, folder in runs.items()}
    curves = _curves(records)
    rows = -(-len(curves) // _COLUMNS)
    with names_as_written(records):
        figure, axes = _figure(min(_COLUMNS, len(curves)), rows)
        for axis in axes[len(curves) :]:
            axis.set_axis_off()
        for axis, curve in zip(axes, curves, strict=False):
            _plot(axis, curve, records)
        figure.suptitle(alike(records))
        _write_legend(figure, axes[len(curves) :], records)
        save(figure, path)


def training_panels(runs: Mapping[str, Path]) -> Figure:
    """The same curves as panels of one figure, for a page, and the runs' last accuracies in words."""
    records = {name: read_metrics(folder) for name, folder in runs.items()}
    with names_as_written(records):
        panels = [Panel(_rendered(_legend_alone(records)), "Runs", alike(records))]
        for curve in _curves(records):
            figure, (axis,) = _figure(1, 1)
            _plot(axis, curve, records)
            axis.set_title("")
            panels.append(Panel(_rendered(figure), curve.title, curve.unit))
    return Figure("training", panels, "Training", ". ".join(_summary(*run) for run in records.items()) + ".", columns=3)


def plot_feature_distance(distance: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Bars of L1 and cosine for each level and method, as stage 1 measured them on held-out images."""
    with names_as_written(distance):
        save(_distance_bars(distance), path)


def _distance_bars(distance: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Any:
    figure, axes = _figure(2)
    levels = list(next(iter(distance.values())))
    width = 0.8 / len(distance)
    for axis, (measure, title) in zip(
        axes,
        (("l1", "L1 distance, lower is better"), ("cosine", "Cosine similarity, higher is better")),
        strict=True,
    ):
        for place, ((method, values), colour) in enumerate(zip(distance.items(), cycle(colours()), strict=False)):
            at = [x + (place - (len(distance) - 1) / 2) * width for x in range(len(levels))]
            axis.bar(at, [values[level][measure] for level in levels], width, label=legend_name(method), color=colour)
        axis.set_xticks(range(len(levels)), levels)
        axis.set(title=title, xlabel="pyramid level")
    axes[0].legend()
    return figure


def _curves(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[_Curve]:
    """What any of the runs recorded: accuracy first."""
    keys = dict.fromkeys(key for run in records.values() for record in run for key in record)
    losses = [key for key in keys if key.startswith("loss_")]
    found = [_Curve(key, *names, False) for key, names in _ACCURACY.items() if key in keys]
    if len(losses) > 1:
        found.append(_Curve("sum of losses", "Sum of losses", "", True))
    found += [_Curve(key, _spoken(key), "", True) for key in losses]
    if "lr" in keys:
        found.append(_Curve("lr", "Learning rate", "", False))
    if not found:
        raise UserError(f"neither losses nor accuracies were recorded yet: {', '.join(records)}")
    return found


def _spoken(key: str) -> str:
    """``loss_rpn_box_reg`` as ``RPN box regression loss``."""
    words = [_WORDS.get(word, word) for word in key.removeprefix("loss_").split("_")]
    return f"{words[0][0].upper()}{words[0][1:]} {' '.join([*words[1:], 'loss'])}"


def _values(curve: _Curve, records: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps and values of a run."""
    pairs = []
    for record in records:
        value = record.get(curve.key)
        if curve.key == "sum of losses" and "lr" in record:
            value = sum(v for k, v in record.items() if k.startswith("loss_"))
        if isinstance(value, int | float) and math.isfinite(value):
            pairs.append((record["step"], float(value)))
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    if curve.noisy and len(values) > _POINTS:
        window = len(values) // (_POINTS // 2)
        values = np.convolve(values, np.ones(window) / window, mode="valid").tolist()
        steps = steps[window - 1 :]
    return steps, values


def _plot(axis: Any, curve: _Curve, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, style in styled(records):
        steps, values = _values(curve, records[name])
        if curve.key not in _ACCURACY:
            first = {"marker": None} if style["marker"] == MARKERS[0] else {}
            style = {**style, **first, "markevery": max(1, len(steps) // _MARKS)}
        axis.plot(steps, values, label=legend_name(name), **style)
    axis.set(title=curve.title, xlabel="step", ylabel=curve.unit)
    # From 0 to the last step of any run, so that the curves of one run stand below one another.
    axis.set_xlim(0, _MARGIN * max(run[-1]["step"] for run in records.values()) or None)
    low, high = axis.dataLim.intervaly
    if curve.unit == "points" and 0 <= high - low < 1:  # a smaller difference shall not look like a large one
        axis.set_ylim((low + high - 1) / 2, (low + high + 1) / 2)


def _handles(axis: Any, records: Mapping[str, Any]) -> list[Any]:
    return [axis.plot([], [], label=legend_name(name), **style)[0] for name, style in styled(records)]


def _write_legend(figure: Any, free: Sequence[Any], records: Mapping[str, Any]) -> None:
    """In the panels that no curve takes, where there is room, or below all."""
    columns = -(-len(records) // _ROWS)
    handles = _handles(figure.axes[0], records)
    entry = 0.6 + 0.085 * max(map(len, records))  # inches, of a wide name
    if columns * entry < len(free) * _PLOT[0]:
        legend = free[0].legend(handles=handles, loc="upper left", ncols=columns, frameon=False)
        legend.set_in_layout(False)  # it may reach over the next free panel
    else:
        columns = min(4, len(records), max(1, int(figure.get_figwidth() / entry)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _legend_alone(records: Mapping[str, Any]) -> Any:
    """A figure of the size of a plot, or larger where the legend needs it."""
    figure, (axis,) = _figure(1, 1)
    axis.set_axis_off()
    columns = min(3, -(-len(records) // _ROWS))
    legend = axis.legend(handles=_handles(axis, records), loc="upper left", ncols=columns, frameon=False, fontsize=11)
    needed = legend.get_window_extent(_canvas(figure).get_renderer()).size / figure.dpi + 0.2
    figure.set_size_inches(np.maximum(figure.get_size_inches(), needed))
    return figure


def _summary(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    last = f"{name}: {records[-1]['step']} steps"
    for key, (title, _) in _ACCURACY.items():
        values = [record[key] for record in records if record.get(key) is not None]
        if values:
            last += f", {title.split(',')[0].lower().replace('ap', 'AP')} {values[-1]:.3g}"
    return last


def _figure(columns: int, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas  # without pyplot: no display, no global state

    figure = Canvas(figsize=(_PLOT[0] * columns, _PLOT[1] * rows), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes


def _canvas(figure: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg(figure)


def _rendered(figure: Any) -> Image.Image:
    canvas = _canvas(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
