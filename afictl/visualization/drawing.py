"""Boxes, masks and labels of objects on an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from afictl.data.transforms import move_boxes
from afictl.visualization.label_placement import Rectangle, place_labels
from afictl.visualization.palette import INK, Color, text_color
from afictl.visualization.text import draw_text, font, text_width

UNSHARED = "*"
"""Mark of a detection that another detector misses."""
_LONG_SIDE_PX = (960, 1600)  # smaller images are enlarged, so that text has room; larger ones are reduced
_MASK_OPACITY = 0.45
_SMALL_BOX_LINES = 10
"""A box is small if its area is less than that of a square of so many line widths: outline and label would hide it."""
_SMALL_TEXT = 0.75
"""Text size at small boxes, as a fraction of that at others."""

Detection = Mapping[str, Tensor]
"""``boxes``, ``labels``, and optionally ``scores``, ``masks``, ``crowd``, ``unshared``; see ``draw_detections``."""


def drawn_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels at which an image of ``size_hw`` is drawn."""
    long_side = max(size_hw)
    scale = min(max(long_side, _LONG_SIDE_PX[0]), _LONG_SIDE_PX[1]) / long_side
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def draw_objects(
    image: Tensor,
    detection: Detection,
    classes: Sequence[str],
    colors: Mapping[int, Color],
    crowded: bool,
    *,
    drawn_hw: tuple[int, int] | None = None,
    has_legend: bool = True,
) -> Image.Image:
    """Resize an image, and draw boxes, masks and labels on it.

    Args:
        image: uint8 (3,H,W) RGB.
        detection: as in ``draw_detections``.
        classes: class names in label order.
        colors: colour of each label.
        crowded: whether labels have the smaller text of pictures with many objects.
        drawn_hw: height and width of the drawing (default: ``drawn_size``).
        has_legend: whether a legend tells the classes, so that small boxes need no name.
    """
    size_hw = (image.shape[-2], image.shape[-1])
    height, width = drawn_hw or drawn_size(size_hw)
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    canvas = canvas.resize((width, height), Image.Resampling.BICUBIC)
    boxes = move_boxes(detection["boxes"].detach().float().cpu(), size_hw, (height, width)).tolist()
    outlines = [
        Outline.of(box, colors[label], is_wide, canvas.size)
        for box, label, is_wide in zip(boxes, detection["labels"].tolist(), unshared(detection), strict=True)
    ]
    order = _by_descending_area(detection)
    if "masks" in detection:
        canvas = _draw_masks(canvas, [(detection["masks"][i], outlines[i]) for i in order])
    draw_outlines(canvas, [outlines[i] for i in order])
    font_size = max(14, round(max(canvas.size) / (56 if crowded else 46)))
    texts = _texts(detection, classes)
    if has_legend:
        short = _short_texts(detection)
        texts = [short[i] if outline.is_small else texts[i] for i, outline in enumerate(outlines)]
    _draw_labels(canvas, outlines, texts, font_size)
    return canvas


@dataclass(frozen=True)
class Outline:
    """Outline of a box as it is drawn in a picture."""

    box: Rectangle
    """Outer edge in pixels; of a small box outside the box, of others on it, but inside the picture."""
    color: Color
    width: int
    """In pixels."""
    is_small: bool

    @classmethod
    def of(cls, box: Sequence[float], color: Color, is_wide: bool, canvas: tuple[int, int]) -> Outline:
        """The outline of a box, xyxy in pixels, twice as wide if ``is_wide``, in a picture of width and height."""
        line = max(2, round(max(canvas) / 300))
        width = 2 * line if is_wide else line
        x0, y0, x1, y1 = box
        is_small = (x1 - x0) * (y1 - y0) < (_SMALL_BOX_LINES * line) ** 2
        margin = width if is_small else 0
        left, top = (min(max(low - margin, 0), side - 1) for low, side in zip((x0, y0), canvas, strict=True))
        right, bottom = (
            max(min(high + margin, side - 1), low)
            for high, side, low in zip((x1, y1), canvas, (left, top), strict=True)
        )
        return cls((left, top, right, bottom), color, width, is_small)


def _by_descending_area(detection: Detection) -> list[int]:
    """Indices in the order of drawing, in which no box hides a smaller one."""
    boxes = detection["boxes"]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return [int(i) for i in areas.argsort(descending=True)]


def _draw_masks(canvas: Image.Image, masks: Sequence[tuple[Tensor, Outline]]) -> Image.Image:
    """Blend each mask with its colour and draw its border; those of small boxes, which it would hide, are left out."""
    pixels = np.asarray(canvas).astype(np.float32)
    for mask, outline in masks:
        bitmap, color = mask.cpu().numpy(), outline.color
        if bitmap.any() and not outline.is_small:
            window, inside = _resize_mask(bitmap, canvas.size)
            part = pixels[window]
            part[inside] += (np.array(color, dtype=np.float32) - part[inside]) * _MASK_OPACITY
            part[_border(inside)] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def _resize_mask(
    bitmap: npt.NDArray[np.bool_], size: tuple[int, int]
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """Rows and columns around a mask (H, W) in a picture of width and height ``size``, and the resized mask there.

    Most masks are small; resizing a hundred masks to the size of the picture takes seconds.
    """
    spans, scales = [], []
    for axis, side in ((1, size[1]), (0, size[0])):
        indices = np.flatnonzero(bitmap.any(axis=axis))
        scale = bitmap.shape[1 - axis] / side
        low = max(0, int((indices[0] - 1) / scale) - 2)
        spans.append(slice(low, min(side, int((indices[-1] + 2) / scale) + 3)))
        scales.append(scale)
    rows, columns = spans
    box = (columns.start * scales[1], rows.start * scales[0], columns.stop * scales[1], rows.stop * scales[0])
    mask_image = Image.fromarray(bitmap.astype(np.uint8) * 255)
    part = mask_image.resize((columns.stop - columns.start, rows.stop - rows.start), Image.Resampling.BILINEAR, box=box)
    return (rows, columns), np.asarray(part) > 127


def _border(inside: npt.NDArray[np.bool_], width: int = 2) -> npt.NDArray[np.bool_]:
    """Pixels of a mask within ``width`` pixels of its edge, along rows or columns."""
    core = inside.copy()
    for step in range(1, width + 1):
        core[step:] &= inside[:-step]
        core[:-step] &= inside[step:]
        core[:, step:] &= inside[:, :-step]
        core[:, :-step] &= inside[:, step:]
    return inside & ~core


def draw_outlines(canvas: Image.Image, outlines: Sequence[Outline]) -> None:
    """Draw outlines with a thin dark edge, which makes them visible on any background."""
    pen = ImageDraw.Draw(canvas)
    for outline in outlines:
        left, top, right, bottom = outline.box
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=INK)
        pen.rectangle(outline.box, outline=outline.color, width=outline.width)


def _draw_labels(canvas: Image.Image, outlines: Sequence[Outline], texts: Sequence[tuple[str, ...]], size: int) -> None:
    """Draw the label of each box: the longest text for which there is room, or nothing."""
    pen = ImageDraw.Draw(canvas)
    font_sizes = [round(_SMALL_TEXT * size) if outline.is_small else size for outline in outlines]
    sizes = [
        [_label_size(text, font_size) for text in options] for options, font_size in zip(texts, font_sizes, strict=True)
    ]
    placements = place_labels([outline.box for outline in outlines], sizes, canvas.size)
    for outline, options, font_size, placement in zip(outlines, texts, font_sizes, placements, strict=True):
        if placement is not None:
            option, (x0, y0, x1, y1) = placement
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=outline.color)
            middle = (x0 + font_size // 4, (y0 + y1) / 2)
            draw_text(pen, middle, options[option], font_size, text_color(outline.color))


def _label_size(text: str, font_size: int) -> tuple[float, float]:
    """Width and height of a label in pixels."""
    padding = font_size // 4
    return text_width(text, font_size) + 2 * padding, sum(font(font_size).getmetrics()) + padding


def _texts(detection: Detection, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Label texts of each object, the full one first.

    Those of a detection lose its score first, as the legend alone tells the class where neither has room; among objects
    of one class they lose the name.
    """
    names = [classes[label - 1] for label in detection["labels"].tolist()]
    if "scores" in detection:
        scores = [f"{score:.2f}" for score in detection["scores"].tolist()]
        marks = _marks(detection)
        forms = zip(marks, names, scores, strict=True)
        has_classes = len(set(names)) > 1
        return [
            (f"{mark}{name} {score}", *([f"{mark}{name}"] if has_classes else []), f"{mark}{score}")
            for mark, name, score in forms
        ]
    if "crowd" in detection:
        crowd = detection["crowd"].tolist()
        return [(f"{name} (crowd)" if is_crowd else name,) for name, is_crowd in zip(names, crowd, strict=True)]
    return [(name,) for name in names]


def _short_texts(detection: Detection) -> list[tuple[str, ...]]:
    """Label texts of small boxes: mark and score of a detection, nothing of an object."""
    if "scores" not in detection:
        return [()] * len(detection["boxes"])
    scores = detection["scores"].tolist()
    return [(f"{mark}{score:.2f}",) for mark, score in zip(_marks(detection), scores, strict=True)]


def _marks(detection: Detection) -> list[str]:
    return [UNSHARED if is_unshared else "" for is_unshared in unshared(detection)]


def unshared(detection: Detection) -> list[bool]:
    """Whether each detection is one that another detector misses."""
    return detection["unshared"].tolist() if "unshared" in detection else [False] * len(detection["boxes"])
