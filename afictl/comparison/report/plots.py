"""Geometry that the report's plots share: scales, ticks, and labels that keep clear of one another.

The template draws what these functions place. All lengths are pixels of the SVG's own coordinates, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from afictl.visualization import text as drawn_text

MINUS = "\N{MINUS SIGN}"
TEXT = 12
"""Size of type in plots."""
WIDTHS = {"wide": 640, "narrow": 336}
"""Every plot is drawn twice, so that type has the same size on a desk and on a phone."""
_MARGIN = {"left": 56, "right": 12, "top": 12, "bottom": 44}

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels, to a tenth, which is what the page spends on a number."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Frame:
    """The axes of a plot."""

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


def frame(
    size: tuple[float, float], x_range: tuple[float, float], y_range: tuple[float, float], titles: tuple[str, str]
) -> tuple[Frame, Scale, Scale]:
    """Axes for a plot of ``size`` pixels, width and height, and the scales of its two ranges."""
    width, height = size
    left, right = _MARGIN["left"], width - _MARGIN["right"]
    top, bottom = _MARGIN["top"], height - _MARGIN["bottom"]
    x, y = Scale(*x_range, left, right), Scale(*y_range, bottom, top)
    x_ticks = tuple((x(value), short(value)) for value in ticks(*x_range, max(3, round((right - left) / 90))))
    y_ticks = tuple((y(value), short(value)) for value in ticks(*y_range, max(3, round((bottom - top) / 50))))
    return Frame(width, height, left, right, top, bottom, x_ticks, y_ticks, *titles), x, y


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round values between ``low`` and ``high``."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = (high - low) * 1e-6
    return [float(value) for value in found if low - slack <= value <= high + slack]


def short(value: float) -> str:
    """A tick's label, with a real minus and thousands as ``k``."""
    text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 6):g}"
    return text.replace("-", MINUS)


def padded(values: Iterable[float], share: float = 0.08, least: float = 1.0) -> tuple[float, float]:
    """The range of some values, at least ``least`` wide, and a margin of ``share`` of it on both sides."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    margin = (high - low) * share
    return low - margin, high + margin


def text_width(text: str) -> float:
    """An estimate for the sans-serif faces of browsers, of which few are wider than that of the pictures."""
    return drawn_text.text_width(text, TEXT)


def fitted(text: str, width: float) -> str:
    """``text``, its middle left out where it would be wider than ``width`` pixels."""
    return drawn_text.fit_text(text, TEXT, width)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near ``wanted``, in the same order, at least ``gap`` apart and from ``low`` to ``high``.

    Where they do not all fit, they move together evenly.
    """
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    places = [0.0] * len(wanted)
    edge = -math.inf
    for k in order:
        edge = max(wanted[k], edge + gap, low)
        places[k] = edge
    edge = math.inf
    for k in reversed(order):
        edge = min(places[k], edge - gap, high)
        places[k] = edge
    return places


def label_places(
    points: Sequence[tuple[float, float]], widths: Sequence[float], obstacles: Sequence[Rectangle], canvas: Rectangle
) -> list[Rectangle | None]:
    """A rectangle for the label of each point, inside ``canvas``, that covers no point and no other label.

    Of those the nearest is taken, where a place counts as farther away for each of the ``obstacles`` that it covers,
    for each label or point that the line to it would cross, and where it is no nearer to its own point than to another.
    None where nothing is free.
    """
    placed: list[Rectangle] = []
    chosen: list[Rectangle | None] = [None] * len(points)
    for k in sorted(range(len(points)), key=lambda k: points[k][1]):
        taken = [*map(_marker, points), *placed]
        others = [*points[:k], *points[k + 1 :]]
        options = [
            (_detour(points[k], place, others, placed, obstacles), place)
            for place in _around(*points[k], widths[k])
            if _inside(place, canvas) and not _hits(place, taken)
        ]
        if options:
            chosen[k] = min(options)[1]
            placed.append(min(options)[1])
    return chosen


def leader_end(point: tuple[float, float], place: Rectangle) -> tuple[float, float]:
    """Where a line from a point meets its label."""
    return round(min(max(point[0], place[0]), place[2]), 1), round(min(max(point[1], place[1]), place[3]), 1)


def _marker(point: tuple[float, float]) -> Rectangle:
    return point[0] - 7, point[1] - 7, point[0] + 7, point[1] + 7


def _around(x: float, y: float, width: float) -> Iterable[Rectangle]:
    """Places for a label at growing distance from a point, in twelve directions."""
    height = TEXT + 4
    for radius in (10, 16, 24, 34, 46, 60, 76, 95, 120, 150, 190):
        for angle in range(0, 360, 30):
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            left = x + radius * cosine - width * (1 - cosine) / 2
            middle = y + radius * sine
            yield left, middle - height / 2, left + width, middle + height / 2


def _detour(
    point: tuple[float, float],
    place: Rectangle,
    others: Sequence[tuple[float, float]],
    labels: Sequence[Rectangle],
    obstacles: Sequence[Rectangle],
) -> float:
    """Pixels from a point to its label, and what the way and the neighbours cost."""
    end = leader_end(point, place)
    steps = [(point[0] + (end[0] - point[0]) * t / 12, point[1] + (end[1] - point[1]) * t / 12) for t in range(13)]
    foreign = [*map(_marker, others), *labels]
    crossed = sum(any(_hits((x, y, x, y), [other]) for x, y in steps) for other in foreign)
    nearest = min((math.dist(other, leader_end(other, place)) for other in others), default=math.inf)
    misleading = max(0.0, math.dist(point, end) + 6 - nearest)
    covered = sum(_hits(place, [other]) for other in obstacles)
    return math.dist(point, end) + 30 * crossed + 2 * misleading + 8 * covered


def _inside(a: Rectangle, b: Rectangle) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def _hits(place: Rectangle, others: Iterable[Rectangle]) -> bool:
    return any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in others)
