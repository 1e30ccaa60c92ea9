"""Images as Python programs hold them, tensors, arrays, Pillow images and paths, as tensors for a detector."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afictl.data.images import image_pixels, read_image
from afictl.errors import UserError

ImageInput: TypeAlias = "Tensor | np.ndarray | Image.Image | str | Path"
"""Tensor (3,H,W), uint8 or float in 0..1; array (H,W,3) uint8 or (3,H,W) float in 0..1; all RGB; Pillow image of any
mode; or path of an image file."""

_DIMENSIONS = 3


def as_tensors(images: ImageInput | Iterable[ImageInput]) -> list[Tensor]:
    """A single image or several as tensors, (3,H,W) RGB, uint8 or float.

    Tensors, and values of other types, are returned as they are; ``check_images`` checks both.

    Raises:
        UserError: a file or Pillow image that cannot be read, or an array of another shape or type.
    """
    if _is_single(images):
        return [_as_tensor(images, 0)]
    return [_as_tensor(image, index) for index, image in enumerate(images)]  # type: ignore[arg-type]


def _is_single(images: object) -> bool:
    if isinstance(images, str | Path | Image.Image):
        return True
    return isinstance(images, Tensor | np.ndarray) and images.ndim <= _DIMENSIONS


def _as_tensor(image: object, index: int) -> Tensor:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image_pixels(image, f"image {index}")
    return _of_array(image, index) if isinstance(image, np.ndarray) else image  # type: ignore[return-value]


def _of_array(array: np.ndarray, index: int) -> Tensor:
    """Tensor that shares the memory of an array where that is possible."""
    is_bytes, is_float = array.dtype == np.uint8, array.dtype.kind == "f"
    channels = array.shape[2 if is_bytes else 0] if array.ndim == _DIMENSIONS else 0
    if channels != 3 or not (is_bytes or is_float):
        shape = f"{array.dtype} {array.shape}"
        raise UserError(
            f"image {index}: expected an array of uint8 (h, w, 3), or of floats in 0..1 (3, h, w), got {shape}"
        )
    if not array.dtype.isnative or min(array.strides) < 0 or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    tensor = torch.from_numpy(array)
    return tensor.permute(2, 0, 1) if is_bytes else tensor
