"""COCO metrics: key in files, heading, unit, number format and computation.

A new metric is one more entry of ``METRICS``, over which the tables on screen, ``metrics.json``, ``per_class.csv`` and
the tables of comparisons iterate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Precision = npt.NDArray[np.float64]
"""(10 IoU thresholds 0.50, 0.55, ..., 0.95, 101 recalls, classes, 4 areas); -1 where there is no object."""

KINDS = ("box", "mask")
"""Kinds of predictions; the full key of a metric is ``KIND/KEY``, such as ``box/AP50``."""
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


@dataclass(frozen=True)
class Metric:
    """One metric, computed for boxes and for masks."""

    key: str
    title: str
    """Column heading."""
    unit: str
    format: str
    """Format specification of a float, such as ``.1f``."""
    getter: Callable[[Precision], float | None]
    """Computes the value from the precision of one or more classes; None without objects."""
    per_class: bool = False
    """Whether it is also reported for each class."""

    def text(self, value: float | None) -> str:
        """Format a value for a table; ``-`` for None."""
        return "-" if value is None else format(value, self.format)


def mean_precision(precision: Precision) -> float | None:
    """Mean of the defined values (above -1) in points of 100; None if there are none."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else None


def _iou_index(iou: float) -> int:
    """Index of an IoU threshold in ``Precision``."""
    return round((iou - 0.5) / 0.05)


CURVE_IOU_INDEX = {"50": _iou_index(0.50), "75": _iou_index(0.75)}
"""The thresholds of precision-recall curves, in percent, with their index in ``Precision``."""
POINTS = "points of 100"
METRICS = (
    Metric("AP", "AP", POINTS, ".1f", lambda p: mean_precision(p[..., _ALL]), per_class=True),
    Metric("AP50", "AP50", POINTS, ".1f", lambda p: mean_precision(p[_iou_index(0.50), ..., _ALL]), per_class=True),
    Metric("AP75", "AP75", POINTS, ".1f", lambda p: mean_precision(p[_iou_index(0.75), ..., _ALL])),
    Metric("APs", "APs", POINTS, ".1f", lambda p: mean_precision(p[..., _SMALL])),
    Metric("APm", "APm", POINTS, ".1f", lambda p: mean_precision(p[..., _MEDIUM])),
    Metric("APl", "APl", POINTS, ".1f", lambda p: mean_precision(p[..., _LARGE])),
)
CLASS_METRICS = tuple(metric for metric in METRICS if metric.per_class)


def format_points(points: float) -> str:
    """Format with one decimal, such as ``41.3``; a rounded zero has no sign."""
    text = f"{points:.1f}"
    return text if float(text) else "0.0"


def format_difference(points: float) -> str:
    """Format with sign and one decimal, such as ``+1.2``; a rounded zero has no sign."""
    text = f"{points:+.1f}"
    return text if float(text) else "0.0"
