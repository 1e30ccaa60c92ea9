"""Precision over recall, of boxes and of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afictl.visualization.charts import legend_name, names_as_written, save
from afictl.visualization.style import INK, MUTED, class_color

_HUES = (5, 1, 3, 6, 2, 7)  # of the palette, the ones that read as thin lines on white
_PLURAL = {"box": "Boxes", "mask": "Masks"}
_RECALLS = np.linspace(0, 1, 101)
_THRESHOLDS = ((0, "IoU 0.50"), (5, "IoU 0.75"))


def plot_precision_recall(precision: Mapping[str, np.ndarray], classes: Sequence[str], path: Path) -> None:
    """For each kind of ``precision`` the means over the classes, and each class at an IoU of 0.5, as one picture.

    Of more than six classes the best three and the worst three by AP50 are named, the others grey.

    Args:
        precision: by kind, ``box`` and perhaps ``mask``: (10 IoU thresholds, 101 recalls, classes, areas), -1 where a
            class has no object, as an ``Evaluation`` holds it.
        classes: names in the order of the columns.
        path: the picture's.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    with names_as_written(classes):
        figure = Figure(figsize=(10.6, 4.2 * len(precision)), layout="constrained", dpi=150)
        grid = figure.subplots(len(precision), 2, squeeze=False)
        for (kind, values), (mean, each) in zip(precision.items(), grid, strict=True):
            curves = np.where(values[..., 0] < 0, np.nan, values[..., 0])
            _plot_means(mean, curves, kind)
            _plot_classes(each, curves[0], classes, kind)
        save(figure, path)


def _plot_means(axis: Any, curves: np.ndarray, kind: str) -> None:
    present = ~np.isnan(curves[0, 0])
    lines = [(name, curves[k][:, present].mean(axis=1)) for k, name in _THRESHOLDS if present.any()]
    if present.any():
        lines.append(("mean of IoU 0.50 to 0.95", curves[:, :, present].mean(axis=(0, 2))))
    for number, (name, values) in enumerate(lines):
        axis.plot(_RECALLS, values, color=_rgb(class_color(_HUES[number])), label=f"{name}: {_points(values)}")
    _finish(axis, f"{_PLURAL[kind]}, mean of all classes")


def _plot_classes(axis: Any, curves: np.ndarray, classes: Sequence[str], kind: str) -> None:
    present = [k for k in range(len(classes)) if not np.isnan(curves[0, k])]
    ranked = sorted(present, key=lambda k: -float(curves[:, k].mean()))
    named = ranked if len(ranked) <= len(_HUES) else [*ranked[:3], *ranked[-3:]]
    for k in present:
        if k not in named:
            axis.plot(_RECALLS, curves[:, k], color=_rgb(MUTED), alpha=0.25, linewidth=0.8)
    for k, hue in zip(named, _HUES, strict=False):
        label = legend_name(f"{classes[k]}: {_points(curves[:, k])}")
        axis.plot(_RECALLS, curves[:, k], color=_rgb(class_color(hue)), label=label)
    which = "each class" if len(named) == len(present) else f"best and worst three of {len(present)} classes"
    _finish(axis, f"{_PLURAL[kind]}, {which} at IoU 0.50")


def _finish(axis: Any, title: str) -> None:
    axis.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.title.set_color(_rgb(INK))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(title="average precision", fontsize="small", title_fontsize="small")
    else:
        axis.text(0.5, 0.5, "no objects", ha="center", color=_rgb(MUTED))


def _points(curve: np.ndarray) -> str:
    return f"{100 * float(curve.mean()):.1f}"


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255
