"""Resizing and flipping of an image with its boxes and masks; all views of a sample share one random augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from afictl.data.bitmaps import draw_bitmaps
from afictl.data.dataset import Objects
from afictl.presets import InputConfig

SizeHW: TypeAlias = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Augmentation:
    """Random parameters of one sample, shared by its full and its half view."""

    min_size: int
    flip: bool


def draw_augmentation(config: InputConfig, generator: torch.Generator) -> Augmentation:
    """Draw the short side and the flip of one training sample."""
    k = int(torch.randint(len(config.min_sizes), (), generator=generator))
    flip = bool(torch.rand((), generator=generator) < config.flip)
    return Augmentation(config.min_sizes[k], flip)


def shortest_edge(size_hw: SizeHW, min_size: int, max_size: int) -> SizeHW:
    """The size with the short side ``min_size``, or less where the long side would exceed ``max_size``.

    Halves round up, as in detectron2's ``ResizeShortestEdge``.
    """
    short = min(size_hw)
    sides = [min_size if side == short else side * (min_size / short) for side in size_hw]
    shrink = min(1.0, max_size / max(sides))
    height, width = (max(1, int(side * shrink + 0.5)) for side in sides)
    return height, width


def resized_size(config: InputConfig, size_hw: SizeHW, short_side: int) -> SizeHW:
    """The size to which an image of ``size_hw`` is resized, for one of the short sides of ``config``."""
    return shortest_edge((1, 1) if config.square else size_hw, short_side, config.max_size)


def scaled_size(size_hw: SizeHW, scale: float) -> SizeHW:
    """Both sides times ``scale``, rounded."""
    return size_hw if scale == 1 else (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))


def half_size(size_hw: SizeHW) -> SizeHW:
    """The size of the half view: both sides halved and rounded down (AFI-GAN)."""
    return max(1, size_hw[0] // 2), max(1, size_hw[1] // 2)


def resize_image(image: Tensor, size_hw: SizeHW) -> Tensor:
    """Bilinear with antialiasing; ``image`` uint8 or float (3,H,W)."""
    return tv.resize(image, list(size_hw), interpolation=tv.InterpolationMode.BILINEAR, antialias=True)


def to_float(image: Tensor) -> Tensor:
    """Uint8 0..255 to contiguous float32 0..1; a float image stays in its range."""
    if image.dtype != torch.uint8:
        return image.float().contiguous()
    if image.device.type != "cpu":
        return torch.div(image, 255).contiguous()
    # NumPy allocates large pages: with small ones, allocation costs more than filling them.
    floats = torch.from_numpy(np.empty(image.shape, dtype=np.float32))
    return floats.copy_(image).div_(255)


def resize_for(config: InputConfig, image: Tensor) -> Tensor:
    """Resize ``image``, uint8 or float 0..1 of any size, to a detector's test size, float32 0..1."""
    height, width = image.shape[-2:]
    return to_float(resize_image(image, resized_size(config, (height, width), config.test_size)))


def view(image: Tensor, size_hw: SizeHW, flip: bool) -> Tensor:
    """One view, uint8 (3,H,W), of a uint8 ``image``, resized from the original pixels."""
    resized = resize_image(image, size_hw)
    return resized.flip(-1) if flip else resized


def view_target(objects: Objects, from_hw: SizeHW, to_hw: SizeHW, flip: bool, masks: bool = False) -> dict[str, Any]:
    """The training target of an image of ``from_hw`` on its view of ``to_hw``.

    Returns:
        ``boxes`` xyxy float32 (n,4) in pixels of the view, ``labels`` int64 (n,) and with ``masks`` also
        ``masks``, ``Bitmaps`` of n, for which every object must have a segmentation.
    """
    target: dict[str, Any] = {"boxes": move_boxes(objects.boxes, from_hw, to_hw, flip), "labels": objects.labels}
    if masks:
        outlines = [segmentation for segmentation in objects.segmentations if segmentation is not None]
        target["masks"] = draw_bitmaps(outlines, from_hw, to_hw, flip)
    return target


def move_boxes(boxes: Tensor, from_hw: SizeHW, to_hw: SizeHW, flip: bool = False) -> Tensor:
    """Transform boxes xyxy (n,4) of an image of ``from_hw`` to its view of ``to_hw``."""
    scale_x, scale_y = to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]
    x1, y1, x2, y2 = (boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])).unbind(1)
    if flip:
        x1, x2 = to_hw[1] - x2, to_hw[1] - x1
    return torch.stack((x1, y1, x2, y2), dim=1)
