"""Colours of all pictures: ink, paper, and the palette of classes, methods and runs."""

from __future__ import annotations

from collections.abc import Iterable

Color = tuple[int, int, int]

INK: Color = (32, 33, 36)
MUTED: Color = (110, 113, 118)
PAPER: Color = (255, 255, 255)

# Okabe and Ito, "Color Universal Design" (2008), without black: also distinct for colour-blind readers.
_OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_SHADES = ((PAPER, 0.0), (PAPER, 0.5), (INK, 0.45))
# Without yellow, which is hard to read as a thin line on white; distant colours first.
LINE_COLORS = tuple(_OKABE_ITO[k] for k in (4, 0, 2, 5, 1, 6))


def class_color(label: int) -> Color:
    """Default colour of label 1..K, one of seven that repeat."""
    return _OKABE_ITO[(label - 1) % len(_OKABE_ITO)]


def class_colors(labels: Iterable[int]) -> dict[int, Color]:
    """A distinct colour for each of the labels 1..K of one picture.

    It is the ``class_color``, or if a smaller label has that colour, the next unused one; with more than seven classes
    a lighter or darker shade.
    """
    colors: dict[int, Color] = {}
    for label in sorted(set(labels)):
        order = [class_color(label + step) for step in range(len(_OKABE_ITO))]
        shades = [mix(color, target, amount) for target, amount in _SHADES for color in order]
        used = set(colors.values())
        colors[label] = next((shade for shade in shades if shade not in used), class_color(label))
    return colors


def mix(color: Color, target: Color, amount: float) -> Color:
    """Linear interpolation between ``color`` (amount 0) and ``target`` (amount 1)."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(color, target, strict=True))
    return red, green, blue


def text_color(background: Color) -> Color:
    """Ink or paper, whichever has more contrast with ``background`` (by relative luminance)."""
    red, green, blue = background
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 115 else PAPER


def rgb_fractions(color: Color) -> tuple[float, float, float]:
    """Red, green and blue in 0..1, for matplotlib."""
    red, green, blue = color
    return red / 255, green / 255, blue / 255
