"""How the report tells methods apart: hue, marker and dashes, so that none of them has to be seen alone."""

from __future__ import annotations

from jinja2 import Environment

from afictl.visualization.palette import INK, PAPER, Color, class_color, mix

DARK: Color = (22, 24, 28)
"""The page's background in the dark."""
_HUES = (5, 6, 3, 7, 1, 2)  # of the palette, far apart first; yellow would have to be brown to be seen on white
_CONTRAST = 3.0  # of a line on its background, as WCAG 2.2 asks of graphics
_MARKERS = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "M-4.5,-4.5h9v9h-9z",
    "M0,-6L5.6,4.4H-5.6z",
    "M0,-6.4L6.4,0L0,6.4L-6.4,0z",
    "M0,6L5.6,-4.4H-5.6z",
)
_DASHES = ("", "7 3", "2 3")


def hue(series: int) -> str:
    """CSS class of the colour of a method by its position; the baseline, 0, has the colour of text."""
    return f"h{(series - 1) % len(_HUES) + 1}" if series else "h0"


def marker(series: int) -> str:
    """SVG path around the origin; with its hue it comes again after thirty methods."""
    return _MARKERS[series % len(_MARKERS)]


def dash(series: int) -> str:
    """SVG dash pattern; solid for the first methods of each hue."""
    return _DASHES[(series - 1) // len(_HUES) % len(_DASHES)] if series else ""


def style_sheet(templates: Environment, choices: int, panes: int) -> str:
    """The page's CSS, with a rule for every position of its two switches."""
    return templates.get_template("report.css.j2").render(
        light=[_css(readable(class_color(label), PAPER)) for label in _HUES],
        dark=[_css(readable(class_color(label), DARK)) for label in _HUES],
        choices=choices,
        panes=panes,
    )


def readable(color: Color, background: Color) -> Color:
    """``color`` moved away from ``background`` until it stands out enough for a line."""
    away = INK if _luminance(background) > 0.5 else PAPER
    steps = (mix(color, away, step / 20) for step in range(20))
    return next((shade for shade in steps if contrast(shade, background) >= _CONTRAST), away)


def contrast(one: Color, other: Color) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: Color) -> float:
    """Relative luminance of sRGB, 0 to 1."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
