"""Placement of labels at boxes: inside the picture, without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""
WidthHeight = tuple[float, float]
"""In pixels."""

_MAX_COVERED = 0.2
"""Maximum fraction of another box that a label may cover; nothing of a box that is smaller than the label."""


def place_labels(
    boxes: Sequence[Rectangle], sizes: Sequence[Sequence[WidthHeight]], canvas: WidthHeight
) -> list[tuple[int, Rectangle] | None]:
    """Place the label of each box greedily.

    Args:
        boxes: boxes in order of importance.
        sizes: sizes of the alternative labels of each box, best first (for instance a long and a short text).
        canvas: size of the picture; larger labels are not placed.

    Returns:
        For each box the index of the label and its rectangle; None if every label would cover another label, more than
        a fifth of another box, or any part of another box that is smaller than the label.
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


def _positions(box: Rectangle, size: WidthHeight, canvas: WidthHeight) -> Iterator[Rectangle]:
    """Yield rectangles above, inside (if the box is large enough) and below a box, each aligned left, then right.

    At a box that is lower than the label follow those on its right and left side.
    """
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
    top = min(max((y0 + y1 - height) / 2, 0.0), canvas[1] - height)
    if y1 - y0 < height <= canvas[1]:
        for left in (x1, x0 - width):
            if 0 <= left <= canvas[0] - width:
                yield left, top, left + width, top + height


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _covers(label: Rectangle, box: Rectangle) -> bool:
    width = min(label[2], box[2]) - max(label[0], box[0])
    height = min(label[3], box[3]) - max(label[1], box[1])
    box_area, label_area = ((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (box, label))
    max_covered = _MAX_COVERED if box_area >= label_area else 0.0
    return width > 0 and height > 0 and width * height > max_covered * box_area
