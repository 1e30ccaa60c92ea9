"""Drawing of boxes, masks and class names on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from afictl.data.transforms import move_boxes, resize_image
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.label_placement import place_labels
from afictl.visualization.palette import INK, PAPER, Color, class_colors, text_color
from afictl.visualization.text import draw_text, font, text_width

GROUND_TRUTH = "Ground truth"
_LONG_SIDE_PX = (960, 1600)  # smaller images are enlarged, so that text has room; larger ones are reduced
_MASK_OPACITY = 0.45
_UNSHARED = "*"
_MAX_LARGE_LABELS = 12  # with more objects in a panel the labels are smaller

Detection = Mapping[str, Tensor]
"""``boxes``, ``labels``, and optionally ``scores``, ``masks``, ``crowd``, ``unshared``; see ``draw_detections``."""
SheetPicture = tuple[str, Tensor, Detection]
"""Title, image uint8 (3,H,W) and detection of a picture of a sheet."""


def draw_detections(image: Tensor, detection: Detection, classes: Sequence[str], title: str = "") -> Image.Image:
    """Draw boxes, masks and labels on an image, with a title above and a legend of the classes below.

    Args:
        image: uint8 (3,H,W) RGB.
        detection: ``boxes`` (N,4) xyxy in pixels of the image and ``labels`` (N,) 1..K; optionally ``scores`` (N,),
            ``masks`` (N,H,W) bool, ``unshared`` (N,) bool: detections to mark because another detector misses them,
            and for ground truth ``crowd`` (N,) bool.
        classes: class names in label order.
        title: title of the picture, followed by the number of objects.
    """
    return detections_figure("", image, {title: detection}, classes).draw()


def detections_figure(
    name: str, image: Tensor, detections: Mapping[str, Detection], classes: Sequence[str], title: str = ""
) -> Figure:
    """A figure with a panel for each of ``detections``, by title; see ``draw_detections``.

    Args:
        name: file name of the figure without suffix.
        image: uint8 (3,H,W) RGB.
        detections: detection by the title of its panel.
        classes: class names in label order.
        title: heading of the figure.
    """
    labels = [label for detection in detections.values() for label in detection["labels"].tolist()]
    colors = class_colors(labels)
    crowded = max(len(detection["boxes"]) for detection in detections.values()) > _MAX_LARGE_LABELS
    panels = [
        Panel(_draw(image, detection, classes, colors, crowded), panel_title, _count(detection))
        for panel_title, detection in detections.items()
    ]
    return Figure(name, panels, title, legend=[(classes[label - 1], color) for label, color in colors.items()])


def contact_sheet(pictures: Sequence[SheetPicture], classes: Sequence[str]) -> Image.Image:
    """Draw several images with their detections on one sheet, with titles and a legend of the classes.

    Args:
        pictures: image sizes may differ.
        classes: class names in label order.
    """
    sheet = sheet_figure("", pictures, classes)
    size = max(panel.picture.width for panel in sheet.panels), max(panel.picture.height for panel in sheet.panels)
    panels = [replace(panel, picture=ImageOps.pad(panel.picture, size, color=PAPER)) for panel in sheet.panels]
    return replace(sheet, panels=panels).draw()


def sheet_figure(
    name: str, pictures: Sequence[SheetPicture], classes: Sequence[str], title: str = "", columns: int = 4
) -> Figure:
    """A figure with a panel for each image, which may differ in size, and one legend of the classes.

    Args:
        name: file name of the figure without suffix.
        pictures: images with their detections.
        classes: class names in label order.
        title: heading of the figure.
        columns: maximum number of panels in a row.
    """
    colors = class_colors([label for _, _, detection in pictures for label in detection["labels"].tolist()])
    panels = [
        Panel(
            _draw(image, detection, classes, colors, len(detection["boxes"]) > _MAX_LARGE_LABELS),
            panel_title,
            _count(detection),
        )
        for panel_title, image, detection in pictures
    ]
    legend = [(classes[label - 1], color) for label, color in colors.items()]
    return Figure(name, panels, title, legend=legend, columns=columns)


def annotate(image: Tensor, detection: Detection, classes: Sequence[str]) -> Image.Image:
    """Draw boxes, masks and labels on an image at its own size, without title and legend.

    A class has the same colour in all images.

    Args:
        image: uint8 (3,H,W) RGB.
        detection: as in ``draw_detections``.
        classes: class names in label order.
    """
    colors = class_colors(range(1, len(classes) + 1))
    crowded = len(detection["boxes"]) > _MAX_LARGE_LABELS
    return _draw(image, detection, classes, colors, crowded, (image.shape[-2], image.shape[-1]))


def drawn_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels at which an image of ``size_hw`` is drawn."""
    long_side = max(size_hw)
    scale = min(max(long_side, _LONG_SIDE_PX[0]), _LONG_SIDE_PX[1]) / long_side
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def reduce_to_drawing(image: Tensor) -> Tensor:
    """``image``, uint8 (3,H,W), in the size of its drawing if that is smaller, so that masks are drawn at that size."""
    size_hw = drawn_size((image.shape[1], image.shape[2]))
    return resize_image(image, size_hw) if size_hw[0] < image.shape[1] else image


def outline_box(picture: Image.Image, box: Sequence[float]) -> Image.Image:
    """A copy of ``picture`` with the outline of a box, xyxy in pixels, in white, which is no colour of the heat map."""
    canvas = picture.copy()
    _draw_boxes(canvas, [([*box], PAPER, 1)])
    return canvas


def _count(detection: Detection) -> str:
    count, noun = len(detection["boxes"]), "detection" if "scores" in detection else "object"
    unshared = sum(_unshared(detection))
    total = f"{count} {noun}{'' if count == 1 else 's'}"
    return f"{total}, {unshared} missed by another ({_UNSHARED})" if unshared else total


def _unshared(detection: Detection) -> list[bool]:
    return detection["unshared"].tolist() if "unshared" in detection else [False] * len(detection["boxes"])


def _draw(
    image: Tensor,
    detection: Detection,
    classes: Sequence[str],
    colors: Mapping[int, Color],
    crowded: bool,
    drawn_hw: tuple[int, int] | None = None,
) -> Image.Image:
    """Resize the image to ``drawn_hw``, by default its ``drawn_size``, and draw boxes, masks and labels there."""
    size_hw = (image.shape[-2], image.shape[-1])
    height, width = drawn_hw or drawn_size(size_hw)
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    canvas = canvas.resize((width, height), Image.Resampling.BICUBIC)
    boxes = move_boxes(detection["boxes"].detach().float().cpu(), size_hw, (height, width)).tolist()
    box_colors = [colors[label] for label in detection["labels"].tolist()]
    order = _by_descending_area(detection)
    if "masks" in detection:
        canvas = _draw_masks(canvas, [(detection["masks"][i], box_colors[i]) for i in order])
    unshared = _unshared(detection)
    _draw_boxes(canvas, [(boxes[i], box_colors[i], 2 if unshared[i] else 1) for i in order])
    font_size = max(14, round(max(canvas.size) / (56 if crowded else 46)))
    _draw_labels(canvas, boxes, box_colors, _texts(detection, classes), font_size)
    return canvas


def _by_descending_area(detection: Detection) -> list[int]:
    """Indices in the order of drawing, in which no box hides a smaller one."""
    boxes = detection["boxes"]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return [int(i) for i in areas.argsort(descending=True)]


def _draw_masks(canvas: Image.Image, masks: Sequence[tuple[Tensor, Color]]) -> Image.Image:
    """Blend each mask with its colour and draw its border."""
    pixels = np.asarray(canvas).astype(np.float32)
    for mask, color in masks:
        bitmap = mask.cpu().numpy()
        if bitmap.any():
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


def _draw_boxes(canvas: Image.Image, boxes: Sequence[tuple[list[float], Color, int]]) -> None:
    """Draw outlines of boxes (box, colour, line width in units of the default width).

    A thin dark edge makes them visible on any background. Sides outside the picture are drawn at its border.
    """
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(max(canvas.size) / 300))
    for (x0, y0, x1, y1), color, lines in boxes:
        x0, y0 = (min(max(low, 0), side - 1) for low, side in zip((x0, y0), canvas.size, strict=True))
        right, bottom = (
            max(min(high, side - 1), low) for high, side, low in zip((x1, y1), canvas.size, (x0, y0), strict=True)
        )
        pen.rectangle((x0 - 1, y0 - 1, right + 1, bottom + 1), outline=INK)
        pen.rectangle((x0, y0, right, bottom), outline=color, width=lines * line)


def _draw_labels(
    canvas: Image.Image,
    boxes: Sequence[list[float]],
    colors: Sequence[Color],
    texts: Sequence[tuple[str, ...]],
    size: int,
) -> None:
    """Draw the label of each box: the longest text for which there is room, or nothing."""
    pen = ImageDraw.Draw(canvas)
    padding = size // 4
    height = sum(font(size).getmetrics()) + padding
    sizes = [[(text_width(text, size) + 2 * padding, height) for text in options] for options in texts]
    placements = place_labels([(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes], sizes, canvas.size)
    for color, options, placement in zip(colors, texts, placements, strict=True):
        if placement is not None:
            option, (x0, y0, x1, y1) = placement
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=color)
            middle = (x0 + padding, (y0 + y1) / 2)
            draw_text(pen, middle, options[option], size, text_color(color))


def _texts(detection: Detection, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Label texts of each object, the full one first.

    Those of a detection lose its score first, as the legend alone tells the class where neither has room; among objects
    of one class they lose the name.
    """
    names = [classes[label - 1] for label in detection["labels"].tolist()]
    if "scores" in detection:
        scores = [f"{score:.2f}" for score in detection["scores"].tolist()]
        marks = [_UNSHARED if unshared else "" for unshared in _unshared(detection)]
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
