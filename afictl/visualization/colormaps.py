"""Colour maps that colour-blind readers can order, and their scales."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from afictl.visualization.palette import INK, PAPER
from afictl.visualization.text import draw_text, text_width

_LIGHTNESS = (0.35, 0.93)
_CHROMA = 0.13
# Oklab to linear sRGB (Ottosson, "A perceptual color space for image processing", 2020).
_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def heat_colors(values: np.ndarray) -> npt.NDArray[np.uint8]:
    """Viridis colours of values in 0..1, clipped: (...) -> uint8 (..., 3)."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](np.clip(values, 0, 1), bytes=True))[..., :3]


def component_colors(values: np.ndarray) -> npt.NDArray[np.uint8]:
    """Colours of three components in 0..1, clipped, most important first: (..., 3) -> uint8 (..., 3).

    In Oklab the first is lightness, the second blue to yellow, the third green to red, so that readers who cannot
    distinguish red from green lose only the least important component.
    """
    first, second, third = np.moveaxis(np.clip(values, 0, 1), -1, 0)
    lightness = _LIGHTNESS[0] + first * (_LIGHTNESS[1] - _LIGHTNESS[0])
    lab = np.stack((lightness, (2 * third - 1) * _CHROMA, (2 * second - 1) * _CHROMA), axis=-1)
    linear = np.clip(((lab @ _TO_LMS.T) ** 3) @ _TO_RGB.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


def scale_bar(size: tuple[int, int], highest: float) -> Image.Image:
    """Draw the scale of ``heat_colors`` from 0 to ``highest`` in a picture of width and height ``size`` in pixels.

    It is vertical and at least as wide as its three numbers; horizontal if the picture is too low for them.
    """
    height = size[1]
    text = max(12, min(18, height // 9))
    label = f"{highest:.3g} and more"
    width = max(size[0], round(text_width(label, text) + 3 * text + 14))
    picture = Image.new("RGB", (width, height), PAPER)
    if height < 5 * text:
        picture.paste(scale_strip(text, highest, ""), (0, 0))
        return picture
    pen = ImageDraw.Draw(picture)
    left, ramp_width = text // 2, max(14, width // 14)
    top, bottom = text, height - text
    ramp = heat_colors(np.linspace(1, 0, max(1, bottom - top)))[:, None].repeat(ramp_width, axis=1)
    picture.paste(Image.fromarray(ramp), (left, top))
    for value, y in ((label, top), (f"{highest / 2:.3g}", (top + bottom) / 2), ("0", bottom)):
        pen.line((left + ramp_width, y, left + ramp_width + text // 3, y), fill=INK)
        draw_text(pen, (left + ramp_width + text * 0.7, y), value, text, INK)
    return picture


def scale_strip(size: int, highest: float, quantity: str) -> Image.Image:
    """Draw a quantity and the scale of ``heat_colors`` from 0 to ``highest``, with text ``size`` pixels high."""
    labels = (f"{quantity}  0".strip(), f"{highest:.3g}")
    before, after = (round(text_width(label, size)) for label in labels)
    ramp, gap, height = 14 * size, size // 2, round(1.5 * size)
    picture = Image.new("RGB", (before + ramp + after + 2 * gap, height), PAPER)
    pen = ImageDraw.Draw(picture)
    draw_text(pen, (0, height / 2), labels[0], size, INK)
    colors = heat_colors(np.linspace(0, 1, ramp))[None].repeat(size, axis=0)
    picture.paste(Image.fromarray(colors), (before + gap, (height - size) // 2))
    draw_text(pen, (before + ramp + 2 * gap, height / 2), labels[1], size, INK)
    return picture
