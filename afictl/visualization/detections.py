"""Boxes, masks and names drawn on an image, for one detector or for several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from afictl.data.transforms import move_boxes
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.labels import place_labels
from afictl.visualization.style import INK, PAPER, Color, class_colors, font, text_color, text_width, write

GROUND_TRUTH = "Ground truth"
_LONG_SIDE = (960, 1600)  # pixels: smaller images are enlarged, so that text has room; larger ones are reduced
_MASK_OPACITY = 0.45
_UNSHARED = "*"
_CROWDED = 12  # with more objects than this in a panel, labels are written smaller

Detection = Mapping[str, Tensor]


def draw_detections(image: Tensor, detection: Detection, classes: Sequence[str], title: str = "") -> Image.Image:
    """The image with boxes, masks and labels, under a title and above a legend of the classes.

    Args:
        image: uint8 (3,H,W) RGB.
        detection: ``boxes`` (N,4) xyxy in pixels of the image and ``labels`` (N,) 1..K; where there are any,
            ``scores`` (N,), ``masks`` (N,H,W) bool, ``unshared`` (N,) bool: which another detector lacks, so that
            they are marked, and for ground truth ``crowd`` (N,) bool.
        classes: class names in label order.
        title: name of the picture; the number of objects is put beside it.
    """
    return comparison("", image, {title: detection}, classes).draw()


def comparison_figure(
    image: Tensor, ground_truth: Detection | None, detections: Mapping[str, Detection], classes: Sequence[str]
) -> Image.Image:
    """Ground truth (where known) and the detections of several detectors side by side.

    Args:
        image: uint8 (3,H,W) RGB.
        ground_truth: as a detection without scores, or None.
        detections: what each named detector found; see ``draw_detections``.
        classes: class names in label order.
    """
    known = {} if ground_truth is None else {GROUND_TRUTH: ground_truth}
    return comparison("", image, {**known, **detections}, classes).draw()


def comparison(
    name: str, image: Tensor, detections: Mapping[str, Detection], classes: Sequence[str], title: str = ""
) -> Figure:
    """A figure called ``name`` with a panel for each of ``detections``; see ``draw_detections``."""
    labels = [label for detection in detections.values() for label in detection["labels"].tolist()]
    colors = class_colors(labels)
    crowded = max(len(detection["boxes"]) for detection in detections.values()) > _CROWDED
    panels = [
        Panel(_draw(image, detection, classes, colors, crowded), above, _count(detection))
        for above, detection in detections.items()
    ]
    return Figure(name, panels, title, legend=[(classes[label - 1], color) for label, color in colors.items()])


def contact_sheet(pictures: Sequence[tuple[str, Tensor, Detection]], classes: Sequence[str]) -> Image.Image:
    """Several images, each under its title with what is on it, on one page above a legend of the classes.

    Args:
        pictures: title, image and detection of each; see ``draw_detections``. Images may have different sizes.
        classes: class names in label order.
    """
    colors = class_colors([label for _, _, detection in pictures for label in detection["labels"].tolist()])
    drawn = [
        _draw(image, detection, classes, colors, len(detection["boxes"]) > _CROWDED) for _, image, detection in pictures
    ]
    size = max(image.width for image in drawn), max(image.height for image in drawn)
    panels = [
        Panel(ImageOps.pad(image, size, color=PAPER), title, _count(detection))
        for image, (title, _, detection) in zip(drawn, pictures, strict=True)
    ]
    return Figure("", panels, legend=[(classes[label - 1], color) for label, color in colors.items()]).draw()


def drawn_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which an image of ``size_hw`` is drawn."""
    long_side = max(size_hw)
    scale = min(max(long_side, _LONG_SIDE[0]), _LONG_SIDE[1]) / long_side
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def outlined(picture: Image.Image, box: Sequence[float]) -> Image.Image:
    """A copy of ``picture`` with one ``box``, xyxy in its pixels, in the colour that heat maps leave free."""
    canvas = picture.copy()
    _draw_boxes(canvas, [([*box], PAPER, 1)])
    return canvas


def _count(detection: Detection) -> str:
    count, noun = len(detection["boxes"]), "detection" if "scores" in detection else "object"
    marked = sum(_unshared(detection))
    told = f"{count} {noun}{'' if count == 1 else 's'}"
    return f"{told}, {marked} not found by all ({_UNSHARED})" if marked else told


def _unshared(detection: Detection) -> list[bool]:
    return detection["unshared"].tolist() if "unshared" in detection else [False] * len(detection["boxes"])


def _draw(
    image: Tensor, detection: Detection, classes: Sequence[str], colors: Mapping[int, Color], crowded: bool
) -> Image.Image:
    """The enlarged or reduced image with everything drawn at its final resolution."""
    size_hw = (image.shape[-2], image.shape[-1])
    height, width = drawn_size(size_hw)
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    canvas = canvas.resize((width, height), Image.Resampling.BICUBIC)
    boxes = move_boxes(detection["boxes"].detach().float().cpu(), size_hw, (height, width)).tolist()
    inks = [colors[label] for label in detection["labels"].tolist()]
    order = _small_last(detection)
    if "masks" in detection:
        canvas = _draw_masks(canvas, [(detection["masks"][i], inks[i]) for i in order])
    unshared = _unshared(detection)
    _draw_boxes(canvas, [(boxes[i], inks[i], 2 if unshared[i] else 1) for i in order])
    font_size = max(14, round(max(canvas.size) / (56 if crowded else 46)))
    _draw_labels(canvas, boxes, inks, _texts(detection, classes), font_size)
    return canvas


def _small_last(detection: Detection) -> list[int]:
    """Indices from the largest box to the smallest, so that none hides a smaller one."""
    boxes = detection["boxes"]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return [int(i) for i in areas.argsort(descending=True)]


def _draw_masks(canvas: Image.Image, masks: Sequence[tuple[Tensor, Color]]) -> Image.Image:
    """Each mask as a veil in its colour with a solid rim."""
    pixels = np.asarray(canvas).astype(np.float32)
    for mask, color in masks:
        bitmap = mask.cpu().numpy()
        if bitmap.any():
            window, inside = _enlarged(bitmap, canvas.size)
            part = pixels[window]
            part[inside] += (np.array(color, dtype=np.float32) - part[inside]) * _MASK_OPACITY
            part[_rim(inside)] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def _enlarged(
    bitmap: npt.NDArray[np.bool_], size: tuple[int, int]
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """The part of a picture of width and height ``size`` around a mask (H, W), and the mask in that part.

    Most masks are small, and a crowd of them drawn on whole pictures takes seconds.
    """
    spans, shares = [], []
    for axis, side in ((1, size[1]), (0, size[0])):
        where = np.flatnonzero(bitmap.any(axis=axis))
        share = bitmap.shape[1 - axis] / side
        low = max(0, int((where[0] - 1) / share) - 2)
        spans.append(slice(low, min(side, int((where[-1] + 2) / share) + 3)))
        shares.append(share)
    rows, columns = spans
    box = (columns.start * shares[1], rows.start * shares[0], columns.stop * shares[1], rows.stop * shares[0])
    stencil = Image.fromarray(bitmap.astype(np.uint8) * 255)
    part = stencil.resize((columns.stop - columns.start, rows.stop - rows.start), Image.Resampling.BILINEAR, box=box)
    return (rows, columns), np.asarray(part) > 127


def _rim(inside: npt.NDArray[np.bool_], width: int = 2) -> npt.NDArray[np.bool_]:
    """The pixels of a mask that are within ``width`` of its edge, along rows or columns."""
    core = inside.copy()
    for step in range(1, width + 1):
        core[step:] &= inside[:-step]
        core[:-step] &= inside[step:]
        core[:, step:] &= inside[:, :-step]
        core[:, :-step] &= inside[:, step:]
    return inside & ~core


def _draw_boxes(canvas: Image.Image, boxes: Sequence[tuple[list[float], Color, int]]) -> None:
    """Outlines in the class colour inside a thin dark edge, which shows them on any background.

    Each has its width in usual lines. A side on the border of the picture, or beyond it, is drawn just inside.
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
    inks: Sequence[Color],
    texts: Sequence[tuple[str, ...]],
    size: int,
) -> None:
    """Names, best score first; where a full label has no room its short form is tried, then none is drawn."""
    pen = ImageDraw.Draw(canvas)
    padding = size // 4
    height = sum(font(size).getmetrics()) + padding
    sizes = [[(text_width(text, size) + 2 * padding, height) for text in options] for options in texts]
    places = place_labels([(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes], sizes, canvas.size)
    for color, options, place in zip(inks, texts, places, strict=True):
        if place is not None:
            option, (x0, y0, x1, y1) = place
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=color)
            middle = (x0 + padding, (y0 + y1) / 2)
            write(pen, middle, options[option], size, text_color(color))


def _texts(detection: Detection, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """The label of each object, followed by a short form where it has a score."""
    names = [classes[label - 1] for label in detection["labels"].tolist()]
    if "scores" in detection:
        scores = [f"{score:.2f}" for score in detection["scores"].tolist()]
        marks = [_UNSHARED if alone else "" for alone in _unshared(detection)]
        forms = zip(marks, names, scores, strict=True)
        return [(f"{mark}{name} {score}", f"{mark}{score}") for mark, name, score in forms]
    if "crowd" in detection:
        crowd = detection["crowd"].tolist()
        return [(f"{name} (crowd)" if many else name,) for name, many in zip(names, crowd, strict=True)]
    return [(name,) for name in names]
