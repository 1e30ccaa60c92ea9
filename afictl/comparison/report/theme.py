"""Colour, marker and dashes of methods in the report, so that no distinction depends on colour alone."""

from __future__ import annotations

from jinja2 import Environment

from afictl.visualization.palette import INK, PAPER, Color, class_color, mix

DARK: Color = (22, 24, 28)
"""Background of the page in dark mode."""
_COLOR_LABELS = (5, 6, 3, 7, 1, 2)  # of the palette, distant colours first; yellow is invisible on white
_MIN_CONTRAST = 3.0  # of a line and its background, the minimum of WCAG 2.2 for graphics
_MARKERS = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "M-4.5,-4.5h9v9h-9z",
    "M0,-6L5.6,4.4H-5.6z",
    "M0,-6.4L6.4,0L0,6.4L-6.4,0z",
    "M0,6L5.6,-4.4H-5.6z",
)
_DASHES = ("", "7 3", "2 3")


def color_class(method_index: int) -> str:
    """CSS class for the colour of a method; the baseline (0) has the text colour."""
    return f"h{(method_index - 1) % len(_COLOR_LABELS) + 1}" if method_index else "h0"


def marker_path(method_index: int) -> str:
    """SVG path of the marker around the origin; pairs of colour and marker repeat after thirty methods."""
    return _MARKERS[method_index % len(_MARKERS)]


def dash_pattern(method_index: int) -> str:
    """SVG dash pattern; solid for the first method of each colour."""
    return _DASHES[(method_index - 1) // len(_COLOR_LABELS) % len(_DASHES)] if method_index else ""


def style_sheet(templates: Environment, num_panels: int, num_costs: int) -> str:
    """CSS of the page, with a rule for each option of its two switches."""
    return templates.get_template("report.css.j2").render(
        light=[css_color(ensure_contrast(class_color(label), PAPER)) for label in _COLOR_LABELS],
        dark=[css_color(ensure_contrast(class_color(label), DARK)) for label in _COLOR_LABELS],
        num_panels=num_panels,
        num_costs=num_costs,
    )


def ensure_contrast(color: Color, background: Color) -> Color:
    """``color``, mixed with ink or paper until its contrast to ``background`` is at least 3."""
    target = INK if _luminance(background) > 0.5 else PAPER
    shades = (mix(color, target, step / 20) for step in range(20))
    return next((shade for shade in shades if contrast(shade, background) >= _MIN_CONTRAST), target)


def contrast(first: Color, second: Color) -> float:
    """WCAG contrast ratio, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def css_color(color: Color) -> str:
    """Format a colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _luminance(color: Color) -> float:
    """Relative luminance of sRGB, 0 to 1."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
