"""Colours and type of every picture."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from PIL import ImageDraw, ImageFont

from afictl.visualization.fonts import one_line, parts_by_font, plain_font

Color = tuple[int, int, int]

INK: Color = (32, 33, 36)
MUTED: Color = (110, 113, 118)
PAPER: Color = (255, 255, 255)

# Okabe and Ito, "Color Universal Design" (2008), without black: distinct for colour-blind readers too.
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


def class_color(label: int) -> Color:
    """The colour of label 1..K of its own; seven labels on it comes again."""
    return _OKABE_ITO[(label - 1) % len(_OKABE_ITO)]


def class_colors(labels: Iterable[int]) -> dict[int, Color]:
    """A colour for each of the labels 1..K that occur in one picture.

    A label keeps its ``class_color`` unless another label of this picture has taken it: then it gets the next
    free colour and, after seven classes, a lighter or darker shade.
    """
    colors: dict[int, Color] = {}
    for label in sorted(set(labels)):
        home = (label - 1) % len(_OKABE_ITO)
        by_preference = [(home + step) % len(_OKABE_ITO) for step in range(len(_OKABE_ITO))]
        shades = [mix(_OKABE_ITO[hue], towards, amount) for towards, amount in _SHADES for hue in by_preference]
        taken = set(colors.values())
        colors[label] = next((shade for shade in shades if shade not in taken), class_color(label))
    return colors


def mix(color: Color, towards: Color, amount: float) -> Color:
    """``color`` moved by ``amount`` (0..1) towards another."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(color, towards, strict=True))
    return red, green, blue


def text_color(background: Color) -> Color:
    """Ink or paper, whichever is easier to read on ``background`` (by its relative luminance)."""
    red, green, blue = background
    return INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 115 else PAPER


@lru_cache(maxsize=64)
def font(size: int, file: str | None = None) -> ImageFont.FreeTypeFont:
    """A font, without ``file`` DejaVu Sans, which every installation has; ``size`` in pixels."""
    return ImageFont.truetype(file or plain_font(), size)


def text_width(text: str, size: int) -> float:
    """Pixels that ``write`` takes for ``text``."""
    return sum(font(size, file).getlength(part) for file, part in parts_by_font(one_line(text)))


def write(pen: ImageDraw.ImageDraw, left_middle: tuple[float, float], text: str, size: int, color: Color) -> None:
    """One line of text from a point at its left, in the middle of its height, in the fonts that have its characters."""
    x, y = left_middle
    ascent, descent = font(size).getmetrics()
    baseline = round(y + (ascent - descent) / 2)  # of all fonts of the line
    for file, part in parts_by_font(one_line(text)):
        pen.text((x, baseline), part, fill=color, font=font(size, file), anchor="ls")
        x += font(size, file).getlength(part)


def fit_text(text: str, size: int, width: float) -> str:
    """``text``, its middle replaced by an ellipsis where it is wider than ``width`` pixels."""
    kept, shown = len(text), text
    while text_width(shown, size) > width and kept > 2:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
