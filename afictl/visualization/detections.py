"""Drawing of boxes, masks and class names on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image, ImageOps
from torch import Tensor

from afictl.data.transforms import resize_image
from afictl.visualization.drawing import (
    UNSHARED,
    Detection,
    Outline,
    draw_objects,
    draw_outlines,
    drawn_size,
    unshared,
)
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.palette import PAPER, class_colors

GROUND_TRUTH = "Ground truth"
_MAX_LARGE_LABELS = 12  # with more objects in a panel the labels are smaller

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
        Panel(draw_objects(image, detection, classes, colors, crowded), panel_title, _count(detection))
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
            draw_objects(image, detection, classes, colors, len(detection["boxes"]) > _MAX_LARGE_LABELS),
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
    size_hw = (image.shape[-2], image.shape[-1])
    return draw_objects(image, detection, classes, colors, crowded, drawn_hw=size_hw, has_legend=False)


def reduce_to_drawing(image: Tensor) -> Tensor:
    """``image``, uint8 (3,H,W), in the size of its drawing if that is smaller, so that masks are drawn at that size."""
    size_hw = drawn_size((image.shape[1], image.shape[2]))
    return resize_image(image, size_hw) if size_hw[0] < image.shape[1] else image


def outline_box(picture: Image.Image, box: Sequence[float]) -> Image.Image:
    """A copy of ``picture`` with the outline of a box, xyxy in pixels, in white, which is no colour of the heat map."""
    canvas = picture.copy()
    draw_outlines(canvas, [Outline.of(box, PAPER, False, canvas.size)])
    return canvas


def _count(detection: Detection) -> str:
    count, noun = len(detection["boxes"]), "detection" if "scores" in detection else "object"
    num_unshared = sum(unshared(detection))
    total = f"{count} {noun}{'' if count == 1 else 's'}"
    return f"{total}, {num_unshared} absent from another panel ({UNSHARED})" if num_unshared else total
