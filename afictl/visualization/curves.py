"""Plots of what runs recorded: losses and accuracy over steps, and the feature distance of stage 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from afictl.visualization.style import class_color

_HUES = (5, 1, 3, 6, 2, 7)  # of the palette, the ones that read as thin lines on white, far apart first


def plot_training(runs: Mapping[str, Path], path: Path) -> None:
    """Total loss and box AP over steps, one line for each named run folder, as one picture."""
    figure, (losses, accuracy) = _figure(2)
    for (name, folder), colour in zip(runs.items(), cycle(_colours()), strict=False):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [r for r in records if "lr" in r]
        totals = [sum(v for k, v in r.items() if k.startswith("loss_")) for r in steps]
        losses.plot([r["step"] for r in steps], totals, label=name, color=colour)
        measured = [r for r in records if r.get("box/AP") is not None]
        accuracy.plot(
            [r["step"] for r in measured],
            [r["box/AP"] for r in measured],
            marker="o",
            label=name,
            color=colour,
        )
    losses.set(title="Training loss", xlabel="step", ylabel="sum of losses")
    accuracy.set(title="Held-out accuracy", xlabel="step", ylabel="box AP, points", ylim=(0, None))
    accuracy.legend()
    _save(figure, path)


def plot_feature_distance(distance: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Bars of L1 and cosine for each level and method, as stage 1 measured them on held-out images."""
    figure, axes = _figure(2)
    levels = list(next(iter(distance.values())))
    width = 0.8 / len(distance)
    for axis, (measure, title) in zip(
        axes,
        (("l1", "L1 distance, lower is better"), ("cosine", "Cosine similarity, higher is better")),
        strict=True,
    ):
        for place, ((method, values), colour) in enumerate(zip(distance.items(), cycle(_colours()), strict=False)):
            at = [x + (place - (len(distance) - 1) / 2) * width for x in range(len(levels))]
            axis.bar(at, [values[level][measure] for level in levels], width, label=method, color=colour)
        axis.set_xticks(range(len(levels)), levels)
        axis.set(title=title, xlabel="pyramid level")
    axes[0].legend()
    _save(figure, path)


def _colours() -> list[tuple[float, float, float]]:
    return [(r / 255, g / 255, b / 255) for r, g, b in map(class_color, _HUES)]


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(5 * columns, 3.6), layout="constrained", dpi=150)
    axes = figure.subplots(1, columns)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
