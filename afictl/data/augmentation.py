"""Augmentation of a training image in its own pixels: copy-paste, large-scale jitter and colour jitter.

It comes before the views of a sample are made, which therefore show the same. Scale jitter with crops and copy-paste
are those of Ghiasi et al. (https://arxiv.org/abs/2012.07177), in a simple form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from afictl.data import transforms
from afictl.data.dataset import Objects
from afictl.data.segmentation import Segmentation, draw_segmentation, normalize_segmentation
from afictl.data.tile_objects import object_parts
from afictl.data.tiles import Tile
from afictl.presets import InputConfig

_MIN_VISIBLE = 0.1
"""Part of an object that must stay visible; one of which a crop or pasted objects leave less is dropped."""
_MAX_CROPS = 10
"""Windows that are drawn until one holds an object."""
_PASTED_PART = 0.5
"""Probability with which each object of the other image is pasted."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects."""

    image: Tensor
    """Uint8 (3,H,W) RGB."""
    objects: Objects
    """In the pixels of ``image``."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]


def augment(
    source: AnnotatedImage,
    config: InputConfig,
    generator: torch.Generator,
    masks: bool,
    paste_images: np.ndarray,
    read: Callable[[int], AnnotatedImage],
) -> tuple[AnnotatedImage, float]:
    """The augmented image, and the factor at most 1 by which its views are smaller than the sizes of ``config``.

    Args:
        source: with segmentations where ``masks`` or ``config.copy_paste``.
        config: probabilities and ranges; by default nothing is changed and nothing drawn.
        generator: source of all random numbers.
        masks: whether segmentations are needed.
        paste_images: positions of the images whose objects may be pasted.
        read: returns the image at a position.
    """
    if config.copy_paste and _uniform(0, 1, generator) < config.copy_paste:
        source = paste_objects(
            source, read(int(paste_images[_integer(len(paste_images), generator)])), config.flip, generator
        )
    scale = 1.0 if config.scale_jitter == (1, 1) else _uniform(*config.scale_jitter, generator)
    if scale > 1:
        source = random_crop(source, 1 / scale, generator, masks)
    if config.color_jitter:
        source = replace(source, image=jitter_colors(source.image, config.color_jitter, generator))
    return source, min(1.0, scale)


def jitter_colors(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The image, uint8 (3,H,W), with other brightness, contrast and saturation.

    Their factors are within ``1 - strength`` and ``1 + strength``.
    """
    for adjust in (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation):
        image = adjust(image, _uniform(1 - strength, 1 + strength, generator))
    return image


def random_crop(source: AnnotatedImage, fraction: float, generator: torch.Generator, masks: bool) -> AnnotatedImage:
    """A random window of ``fraction`` of each side that holds an object; the whole image if none is found."""
    height, width = source.size_hw
    window_hw = tuple(max(1, round(side * fraction)) for side in (height, width))
    for _ in range(_MAX_CROPS):
        top, left = (
            _integer(side - part + 1, generator) for side, part in zip((height, width), window_hw, strict=True)
        )
        window = Tile(left, top, left + window_hw[1], top + window_hw[0])
        objects = _crop_objects(source, window, masks)
        if len(objects.boxes):
            return AnnotatedImage(source.image[:, window.top : window.bottom, window.left : window.right], objects)
    return source


def _crop_objects(source: AnnotatedImage, window: Tile, masks: bool) -> Objects:
    objects, visible_parts = source.objects, []
    size_hw = window.bottom - window.top, window.right - window.left
    for k, box in enumerate(objects.boxes.double().numpy()):
        xywh = np.concatenate((box[:2], box[2:] - box[:2]))
        outline = objects.segmentations[k] if masks else None
        for part in object_parts(xywh, outline, source.size_hw, [window]):
            segmentation = normalize_segmentation(part.segmentation, size_hw) if masks else None
            if part.visible >= _MIN_VISIBLE and (segmentation is not None or not masks):
                visible_parts.append((k, [*part.xywh[:2], *np.add(part.xywh[:2], part.xywh[2:])], segmentation))
    return _select(objects, visible_parts)


def paste_objects(
    target: AnnotatedImage, other: AnnotatedImage, flip_probability: float, generator: torch.Generator
) -> AnnotatedImage:
    """``target`` with some of the objects of ``other``, which is resized to fit into it, flipped and moved.

    Masks and boxes of objects that are partly hidden are reduced to what is visible.
    """
    flip = _uniform(0, 1, generator) < flip_probability
    scale = min(a / b for a, b in zip(target.size_hw, other.size_hw, strict=True))
    size_hw = tuple(max(1, int(side * scale)) for side in other.size_hw)
    height, width = min(size_hw[0], target.size_hw[0]), min(size_hw[1], target.size_hw[1])
    top, left = _integer(target.size_hw[0] - height + 1, generator), _integer(target.size_hw[1] - width + 1, generator)
    pasted, hidden = [], np.zeros(target.size_hw, dtype=bool)
    for k, outline in enumerate(other.objects.segmentations):
        if outline is None or _uniform(0, 1, generator) >= _PASTED_PART:
            continue
        bitmap = np.zeros(target.size_hw, dtype=np.uint8)
        bitmap[top : top + height, left : left + width] = draw_segmentation(
            outline, other.size_hw, (height, width), flip
        )
        if bitmap.any():
            hidden |= bitmap.astype(bool)
            pasted.append((k, _extent(bitmap), _encode(bitmap)))
    if not pasted:
        return target
    image = target.image.clone()
    view = transforms.view(other.image, (height, width), flip)
    inside = torch.from_numpy(hidden[top : top + height, left : left + width])
    image[:, top : top + height, left : left + width][:, inside] = view[:, inside]
    return AnnotatedImage(image, _join(_visible_objects(target, hidden), _select(other.objects, pasted)))


def _visible_objects(target: AnnotatedImage, hidden: np.ndarray) -> Objects:
    """The objects of ``target`` without the pixels ``hidden``, bool (H,W)."""
    objects, visible_parts = target.objects, []
    for k, outline in enumerate(objects.segmentations):
        box = objects.boxes[k].tolist()
        bitmap = None if outline is None else draw_segmentation(outline, target.size_hw, target.size_hw)
        if bitmap is None or not (bitmap.astype(bool) & hidden).any():
            visible_parts.append((k, box, outline))
            continue
        visible = bitmap * ~hidden
        if visible.sum() >= _MIN_VISIBLE * bitmap.sum():
            visible_parts.append((k, _extent(visible), _encode(visible)))
    return _select(objects, visible_parts)


def _select(objects: Objects, rows: Sequence[tuple[int, list[float], Segmentation | None]]) -> Objects:
    """Some of the objects, by position, with other boxes xyxy and segmentations."""
    index = torch.tensor([k for k, _, _ in rows], dtype=torch.int64)
    fields = {name: getattr(objects, name)[index] for name in ("labels", "crowd", "areas", "ids")}
    boxes = torch.tensor([box for _, box, _ in rows], dtype=torch.float32).reshape(-1, 4)
    return Objects(boxes, **fields, segmentations=[segmentation for _, _, segmentation in rows])


def _join(first: Objects, second: Objects) -> Objects:
    names = ("boxes", "labels", "crowd", "areas", "ids")
    fields = {name: torch.cat((getattr(first, name), getattr(second, name))) for name in names}
    return Objects(**fields, segmentations=first.segmentations + second.segmentations)


def _extent(bitmap: np.ndarray) -> list[float]:
    """Box xyxy of the nonzero pixels."""
    rows, columns = (np.flatnonzero(bitmap.any(axis=axis)) for axis in (1, 0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def _encode(bitmap: np.ndarray) -> Segmentation:
    runs: Segmentation = coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    return runs


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(limit: int, generator: torch.Generator) -> int:
    """A number from 0 on, below ``limit``."""
    return int(torch.randint(limit, (), generator=generator))
