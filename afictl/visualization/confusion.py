"""Which class is taken for which, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afictl.visualization.charts import names_as_written, save
from afictl.visualization.style import INK, PAPER

_WRITTEN = 25  # classes up to which every cell shows its count
_CELL, _SMALL_CELL = 0.42, 0.17  # inches
_SIDE = 40.0  # inches that a picture of very many classes may have


def plot_confusion(counts: np.ndarray, classes: Sequence[str], path: Path, *, note: str = "") -> None:
    """A square of cells: rows are the objects' classes, columns the detections', coloured by the part of their row.

    Args:
        counts: (K+1, K+1); the last row are detections of nothing, the last column missed objects.
        classes: K names.
        path: the picture's.
        note: a line below the title.
    """
    with names_as_written([*classes, note]):
        save(_square(counts, classes, note), path)


def _square(counts: np.ndarray, classes: Sequence[str], note: str) -> Any:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    few = len(classes) <= _WRITTEN
    side = min(_SIDE, 2.6 + (_CELL if few else _SMALL_CELL) * len(counts))
    figure = Figure(figsize=(side + 1.0, side), layout="constrained", dpi=150)
    axis = figure.subplots()
    totals = counts.sum(axis=1, keepdims=True)
    parts = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axis.imshow(parts, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # so that rare confusions show
    names = [*classes, "background"]
    size = 9 if few else 7
    axis.set_xticks(range(len(names)), [*classes, "missed"], rotation=90, fontsize=size)
    axis.set_yticks(range(len(names)), names, fontsize=size)
    axis.set(xlabel="detected as", ylabel="object", title=f"Confusion of classes\n{note}" if note else "Confusion")
    for edge in (axis.axhline, axis.axvline):
        edge(len(classes) - 0.5, color=[v / 255 for v in INK], linewidth=0.8)
    if few:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = PAPER if parts[row, column] > 0.3 else INK
            text = f"{counts[row, column]}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=[v / 255 for v in colour])
    figure.colorbar(image, label="part of the row", shrink=0.7, aspect=30, fraction=0.04)
    return figure
