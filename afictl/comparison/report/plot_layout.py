"""Layout of the plots of the report: scales, ticks, and labels without overlap.

All lengths are pixels in the coordinate system of the SVG, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from afictl.visualization.label_placement import Rectangle

MINUS = "\N{MINUS SIGN}"
FONT_PX = 12
"""Font size; text is measured in DejaVu Sans, which is wider than most sans-serif fonts of browsers."""
WIDTHS_PX = {"wide": 640, "narrow": 336}
"""Widths of each plot, so that text has the same size on a desktop and on a phone."""
_MARGIN_PX = {"left": 56, "right": 12, "top": 12, "bottom": 44}
_LABEL_RADII_PX = (10, 16, 24, 34, 46, 60, 76, 95, 120, 150, 190)

Point = tuple[float, float]
"""x, y."""


@dataclass(frozen=True)
class Scale:
    """Linear map from values ``low`` .. ``high`` to pixels ``start`` .. ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Map a value to pixels, rounded to one decimal for a small page."""
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.start + fraction * (self.end - self.start), 1)


@dataclass(frozen=True)
class Axes:
    """Axes of a plot: rectangle in pixels, ticks (pixel, label) and titles."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_title: str
    y_title: str


def make_axes(
    size: tuple[float, float], x_range: tuple[float, float], y_range: tuple[float, float], titles: tuple[str, str]
) -> tuple[Axes, Scale, Scale]:
    """Axes of a plot of width and height ``size``, with the scales of x and y."""
    width, height = size
    left, right = _MARGIN_PX["left"], width - _MARGIN_PX["right"]
    top, bottom = _MARGIN_PX["top"], height - _MARGIN_PX["bottom"]
    x, y = Scale(*x_range, left, right), Scale(*y_range, bottom, top)
    x_ticks = tuple((x(value), tick_label(value)) for value in ticks(*x_range, max(3, round((right - left) / 90))))
    y_ticks = tuple((y(value), tick_label(value)) for value in ticks(*y_range, max(3, round((bottom - top) / 50))))
    return Axes(width, height, left, right, top, bottom, x_ticks, y_ticks, *titles), x, y


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round values between ``low`` and ``high``."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    tolerance = (high - low) * 1e-6
    return [float(value) for value in values if low - tolerance <= value <= high + tolerance]


def tick_label(value: float) -> str:
    """Format a number with a true minus sign, and thousands as ``k``."""
    text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 6):g}"
    return text.replace("-", MINUS)


def padded_range(values: Iterable[float], margin: float = 0.08, min_span: float = 1.0) -> tuple[float, float]:
    """The range of ``values``, at least ``min_span`` wide, plus ``margin`` as a fraction of it on both sides.

    It begins at 0 at the lowest if no value is negative, as no accuracy, loss or cost is.
    """
    numbers = list(values)
    lowest, high = min(numbers), max(numbers)
    extension = max(0.0, min_span - (high - lowest)) / 2
    low, high = lowest - extension, high + extension
    padding = (high - low) * margin
    low, high = low - padding, high + padding
    return (0.0, high - low) if low < 0 <= lowest else (low, high)


def distribute(targets: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near ``targets`` in the same order, at least ``gap`` apart, between ``low`` and ``high``.

    The gap is reduced if there is not enough room.
    """
    gap = min(gap, (high - low) / max(1, len(targets) - 1))
    order = sorted(range(len(targets)), key=lambda k: targets[k])
    positions = [0.0] * len(targets)
    previous = -math.inf
    for k in order:
        previous = max(targets[k], previous + gap, low)
        positions[k] = previous
    following = math.inf
    for k in reversed(order):
        following = min(positions[k], following - gap, high)
        positions[k] = following
    return positions


def place_point_labels(
    points: Sequence[Point], widths: Sequence[float], obstacles: Sequence[Rectangle], canvas: Rectangle
) -> list[Rectangle | None]:
    """Place a label for each point inside ``canvas``, without overlap with points and other labels.

    The candidate with the smallest penalty is taken: its distance, plus penalties for each obstacle that it covers, for
    each label or point that the leader line crosses, and if it is not clearly nearest to its point.

    Returns:
        A rectangle for each point; None if all candidates overlap a point or label.
    """
    labels: list[Rectangle] = []
    placements: list[Rectangle | None] = [None] * len(points)
    for k in sorted(range(len(points)), key=lambda k: points[k][1]):
        occupied = [*map(_marker_box, points), *labels]
        other_points = [*points[:k], *points[k + 1 :]]
        candidates = [
            (_penalty(points[k], label, other_points, labels, obstacles), label)
            for label in _label_candidates(*points[k], widths[k])
            if _is_inside(label, canvas) and not _overlaps_any(label, occupied)
        ]
        if candidates:
            placements[k] = min(candidates)[1]
            labels.append(min(candidates)[1])
    return placements


def leader_end(point: Point, label: Rectangle) -> Point:
    """End of the leader line from ``point`` on the border of a label."""
    return round(min(max(point[0], label[0]), label[2]), 1), round(min(max(point[1], label[1]), label[3]), 1)


def _marker_box(point: Point) -> Rectangle:
    return point[0] - 7, point[1] - 7, point[0] + 7, point[1] + 7


def _label_candidates(x: float, y: float, width: float) -> Iterable[Rectangle]:
    """Rectangles for a label at increasing distance from a point, in twelve directions."""
    height = FONT_PX + 4
    for radius in _LABEL_RADII_PX:
        for angle in range(0, 360, 30):
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            left = x + radius * cosine - width * (1 - cosine) / 2
            middle = y + radius * sine
            yield left, middle - height / 2, left + width, middle + height / 2


def _penalty(
    point: Point,
    label: Rectangle,
    other_points: Sequence[Point],
    labels: Sequence[Rectangle],
    obstacles: Sequence[Rectangle],
) -> float:
    end = leader_end(point, label)
    line = [(point[0] + (end[0] - point[0]) * t / 12, point[1] + (end[1] - point[1]) * t / 12) for t in range(13)]
    crossable = [*map(_marker_box, other_points), *labels]
    crossed = sum(any(_overlaps_any((x, y, x, y), [box]) for x, y in line) for box in crossable)
    nearest = min((math.dist(other, leader_end(other, label)) for other in other_points), default=math.inf)
    ambiguity = max(0.0, math.dist(point, end) + 6 - nearest)
    covered = sum(_overlaps_any(label, [box]) for box in obstacles)
    return math.dist(point, end) + 30 * crossed + 2 * ambiguity + 8 * covered


def _is_inside(a: Rectangle, b: Rectangle) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def _overlaps_any(a: Rectangle, boxes: Iterable[Rectangle]) -> bool:
    return any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes)
