"""Histogram of the sizes of the objects of a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from afictl.visualization.object_sizes import ObjectSizes
from afictl.visualization.palette import LINE_COLORS, MUTED, rgb_fractions
from afictl.visualization.plotting import literal_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COCO_LIMITS = {"small | medium": 32.0, "medium | large": 96.0}
"""In original pixels."""


def plot_sizes(sizes: ObjectSizes) -> bytes:
    """SVG of a histogram of ``sizes.resized`` on a logarithmic axis, with the strides and anchor sizes of its preset.

    Without a preset the limits of COCO's size classes are drawn.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    fit, file = sizes.anchor_fit, BytesIO()
    anchors = fit.sizes if fit else ()
    lines, meaning = (sizes.strides, "stride of a level") if sizes.preset else (_COCO_LIMITS, "limit of COCO's sizes")
    sizes_px = [float(sizes.resized.min()), float(sizes.resized.max()), *lines.values(), *anchors]
    edges = 2 ** np.arange(math.floor(math.log2(min(sizes_px)) - 0.25), math.log2(max(sizes_px)) + 0.5, 0.25)
    with literal_names(()), rc_context({"svg.hashsalt": "sizes"}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axis = figure.subplots()
        axis.hist(sizes.resized, edges.tolist(), color=rgb_fractions(LINE_COLORS[0]), alpha=0.85)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _draw_lines(axis, lines, meaning)
        _draw_anchors(axis, anchors)
        pixels = f"pixels of the {'resized image' if sizes.preset else 'image file'}"
        axis.set(xlabel=f"square root of the area of the box, {pixels}", ylabel="objects", xlim=(edges[0], edges[-1]))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize="small", loc="upper right", framealpha=0.9)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw_lines(axis: Axes, lines: Mapping[str, float], meaning: str) -> None:
    """Draw vertical lines with their names above."""
    for name, value in lines.items():
        axis.axvline(value, color=rgb_fractions(MUTED), linestyle="--", linewidth=1, label=meaning)
        axis.text(value, 1, name, transform=axis.get_xaxis_transform(), fontsize=9, va="bottom", ha="center")
        meaning = ""  # once in the legend


def _draw_anchors(axis: Axes, anchors: Sequence[float]) -> None:
    if anchors:
        color, place = rgb_fractions(LINE_COLORS[1]), axis.get_xaxis_transform()
        heights = [0.04] * len(anchors)
        axis.plot(anchors, heights, "^", color=color, markersize=8, transform=place, label="anchor size of a level")
