"""Placing of labels at boxes, so that each stays inside the picture and none covers another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""
Size = tuple[float, float]
"""Width and height in pixels."""

_HIDDEN = 0.2
"""Most of another box that a label may cover: small objects in a crowd would vanish below names."""


def place_labels(
    boxes: Sequence[Rectangle], sizes: Sequence[Sequence[Size]], canvas: Size
) -> list[tuple[int, Rectangle] | None]:
    """Choose a place for the label of each box, first come first served.

    Args:
        boxes: in order of importance.
        sizes: for each box its possible labels, best first (a long and a short text, say).
        canvas: of the picture; no label that is wider or higher is chosen.

    Returns:
        For each box which of its labels to draw and where, or None where none fits without covering another label
        or more than a fifth of another box.
    """
    placed: list[Rectangle] = []
    chosen: list[tuple[int, Rectangle] | None] = []
    for number, (box, options) in enumerate(zip(boxes, sizes, strict=True)):
        others = [*boxes[:number], *boxes[number + 1 :]]
        free = (
            (option, place)
            for option, size in enumerate(options)
            for place in _places(box, size, canvas)
            if not any(_overlap(place, other) for other in placed) and not any(_hides(place, other) for other in others)
        )
        choice = next(free, None)
        if choice is not None:
            placed.append(choice[1])
        chosen.append(choice)
    return chosen


def _places(box: Rectangle, size: Size, canvas: Size) -> Iterator[Rectangle]:
    """Above the box, inside it where it is large enough, below it; each at the left, then at the right."""
    (x0, y0, x1, y1), (width, height) = box, size
    if width > canvas[0]:
        return
    heights = [y0 - height, y1]
    if y1 - y0 > 3 * height and x1 - x0 > width:
        heights[1:1] = [y0, y1 - height]
    for y in heights:
        if 0 <= y <= canvas[1] - height:
            for x in (x0, x1 - width):
                left = min(max(x, 0.0), canvas[0] - width)
                yield left, y, left + width, y + height


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _hides(label: Rectangle, box: Rectangle) -> bool:
    width = min(label[2], box[2]) - max(label[0], box[0])
    height = min(label[3], box[3]) - max(label[1], box[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return width > 0 and height > 0 and width * height > _HIDDEN * area
