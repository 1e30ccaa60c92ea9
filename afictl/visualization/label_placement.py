"""Placement of labels at boxes: inside the picture, without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""
Size = tuple[float, float]
"""Width and height in pixels."""

_MAX_COVERED = 0.2
"""Largest part of another box that a label may cover: names would hide small objects in a crowd."""


def place_labels(
    boxes: Sequence[Rectangle], sizes: Sequence[Sequence[Size]], canvas: Size
) -> list[tuple[int, Rectangle] | None]:
    """Place the label of each box greedily, in order.

    Args:
        boxes: in order of importance.
        sizes: for each box the sizes of its possible labels, best first (for instance a long and a short text).
        canvas: size of the picture; wider or higher labels are not placed.

    Returns:
        For each box the index of its label and the rectangle, or None where none fits without covering another label
        or more than a fifth of another box.
    """
    occupied: list[Rectangle] = []
    placements: list[tuple[int, Rectangle] | None] = []
    for number, (box, options) in enumerate(zip(boxes, sizes, strict=True)):
        other_boxes = [*boxes[:number], *boxes[number + 1 :]]
        candidates = (
            (option, rectangle)
            for option, size in enumerate(options)
            for rectangle in _positions(box, size, canvas)
            if not any(_overlap(rectangle, label) for label in occupied)
            and not any(_covers(rectangle, other) for other in other_boxes)
        )
        placement = next(candidates, None)
        if placement is not None:
            occupied.append(placement[1])
        placements.append(placement)
    return placements


def _positions(box: Rectangle, size: Size, canvas: Size) -> Iterator[Rectangle]:
    """Rectangles above the box, inside it where it is large enough, and below it; each at the left, then the right."""
    (x0, y0, x1, y1), (width, height) = box, size
    if width > canvas[0]:
        return
    tops = [y0 - height, y1]
    if y1 - y0 > 3 * height and x1 - x0 > width:
        tops[1:1] = [y0, y1 - height]
    for y in tops:
        if 0 <= y <= canvas[1] - height:
            for x in (x0, x1 - width):
                left = min(max(x, 0.0), canvas[0] - width)
                yield left, y, left + width, y + height


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _covers(label: Rectangle, box: Rectangle) -> bool:
    width = min(label[2], box[2]) - max(label[0], box[0])
    height = min(label[3], box[3]) - max(label[1], box[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return width > 0 and height > 0 and width * height > _MAX_COVERED * area
