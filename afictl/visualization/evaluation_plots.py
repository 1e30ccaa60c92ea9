"""Plots of an evaluation: precision over recall, and the confusion matrix of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from afictl.visualization.palette import INK, LINE_COLORS, MUTED, PAPER, rgb_fractions
from afictl.visualization.plotting import legend_name, literal_names, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KIND_TITLES = {"box": "Boxes", "mask": "Masks"}
_RECALLS = np.linspace(0, 1, 101)
_THRESHOLDS = ((0, "IoU 0.50"), (5, "IoU 0.75"))

_MAX_COUNTED_CLASSES = 25  # with more classes, the cells of the confusion matrix have no numbers
_CELL_INCHES, _SMALL_CELL_INCHES = 0.42, 0.17
_MAX_SIDE_INCHES = 40.0


def plot_precision_recall(precision: Mapping[str, np.ndarray], classes: Sequence[str], path: Path) -> None:
    """Plot precision over recall, as means over the classes and for each class at an IoU of 0.5.

    With more than six classes, the best three and the worst three by AP50 have names and colours; the others are grey.

    Args:
        precision: ``Evaluation.precision``: by kind, ``box`` or ``mask``, (10 IoU thresholds, 101 recalls, classes,
            areas), -1 where a class has no object.
        classes: names in the order of the columns.
        path: picture to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    with literal_names(classes):
        figure = Figure(figsize=(10.6, 4.2 * len(precision)), layout="constrained", dpi=150)
        axes = figure.subplots(len(precision), 2, squeeze=False)
        for (kind, values), (mean_axis, class_axis) in zip(precision.items(), axes, strict=True):
            curves = np.where(values[..., 0] < 0, np.nan, values[..., 0])
            _plot_means(mean_axis, curves, kind)
            _plot_classes(class_axis, curves[0], classes, kind)
        save_figure(figure, path)


def _plot_means(axis: Axes, curves: np.ndarray, kind: str) -> None:
    present = ~np.isnan(curves[0, 0])
    lines = [(name, curves[k][:, present].mean(axis=1)) for k, name in _THRESHOLDS if present.any()]
    if present.any():
        lines.append(("mean of IoU 0.50 to 0.95", curves[:, :, present].mean(axis=(0, 2))))
    for (name, values), color in zip(lines, LINE_COLORS, strict=False):
        axis.plot(_RECALLS, values, color=rgb_fractions(color), label=f"{name}: {_average_precision(values)}")
    _finish(axis, f"{_KIND_TITLES[kind]}, mean of all classes")


def _plot_classes(axis: Axes, curves: np.ndarray, classes: Sequence[str], kind: str) -> None:
    present = [k for k in range(len(classes)) if not np.isnan(curves[0, k])]
    ranked = sorted(present, key=lambda k: -float(curves[:, k].mean()))
    named = ranked if len(ranked) <= len(LINE_COLORS) else [*ranked[:3], *ranked[-3:]]
    for k in present:
        if k not in named:
            axis.plot(_RECALLS, curves[:, k], color=rgb_fractions(MUTED), alpha=0.25, linewidth=0.8)
    for k, color in zip(named, LINE_COLORS, strict=False):
        label = legend_name(f"{classes[k]}: {_average_precision(curves[:, k])}")
        axis.plot(_RECALLS, curves[:, k], color=rgb_fractions(color), label=label)
    selection = "each class" if len(named) == len(present) else f"best and worst three of {len(present)} classes"
    _finish(axis, f"{_KIND_TITLES[kind]}, {selection} at IoU 0.50")


def _finish(axis: Axes, title: str) -> None:
    axis.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.title.set_color(rgb_fractions(INK))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(title="average precision", fontsize="small", title_fontsize="small")
    else:
        axis.text(0.5, 0.5, "no objects", ha="center", color=rgb_fractions(MUTED))


def _average_precision(curve: np.ndarray) -> str:
    return f"{100 * float(curve.mean()):.1f}"


def plot_confusion(counts: np.ndarray, classes: Sequence[str], path: Path, *, note: str = "") -> None:
    """Plot a confusion matrix: rows are classes of objects, columns classes of detections; colours are row fractions.

    Args:
        counts: (K+1, K+1); the last row counts detections of background, the last column missed objects.
        classes: K names.
        path: picture to write.
        note: a line below the title.
    """
    with literal_names([*classes, note]):
        save_figure(_confusion_figure(counts, classes, note), path)


def _confusion_figure(counts: np.ndarray, classes: Sequence[str], note: str) -> Figure:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    counted = len(classes) <= _MAX_COUNTED_CLASSES
    side = min(_MAX_SIDE_INCHES, 2.6 + (_CELL_INCHES if counted else _SMALL_CELL_INCHES) * len(counts))
    figure = Figure(figsize=(side + 1.0, side), layout="constrained", dpi=150)
    axis = figure.subplots()
    totals = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axis.imshow(fractions, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # makes rare confusions visible
    names = [*classes, "background"]
    size = 9 if counted else 7
    axis.set_xticks(range(len(names)), [*classes, "missed"], rotation=90, fontsize=size)
    axis.set_yticks(range(len(names)), names, fontsize=size)
    axis.set(xlabel="detected as", ylabel="object", title=f"Confusion of classes\n{note}" if note else "Confusion")
    for draw_line in (axis.axhline, axis.axvline):
        draw_line(len(classes) - 0.5, color=rgb_fractions(INK), linewidth=0.8)
    if counted:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = rgb_fractions(PAPER if fractions[row, column] > 0.3 else INK)
            axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7, color=color)
    bar = figure.colorbar(image, shrink=0.7, aspect=30, fraction=0.04, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.set_label("part of the row, square-root scale", fontsize=size)
    bar.ax.set_yticklabels(["0", "5 %", "20 %", "50 %", "100 %"], fontsize=size)
    return figure
