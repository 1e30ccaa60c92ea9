"""Validation of images before a detector computes from them: type, shape and range of values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from afictl.errors import UserError, describe_type

_MARGIN = 0.5
"""How far values may lie outside 0..1, as after bicubic resizing or added noise; 0..255 and normalised pixels exceed
it."""


def check_images(images: Sequence[Tensor], *, allow_uint8: bool = False) -> None:
    """Check that every image is (3, h, w) with float values in about 0..1.

    Args:
        images: the images of a batch.
        allow_uint8: accept uint8 too, whose values are 0..255.

    Raises:
        UserError: an image of another type, shape or range; it is named by its index.
    """
    expected = "uint8, or float in 0..1, of shape (3, h, w)" if allow_uint8 else "float (3, h, w) in 0..1"
    for index, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise UserError(f"image {index}: expected a tensor, {expected}, got {describe_type(image)}")
        has_type = image.is_floating_point() or (allow_uint8 and image.dtype == torch.uint8)
        has_type &= image.layout == torch.strided
        if not has_type or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            shape = f"{image.dtype} {tuple(image.shape)}".removeprefix("torch.")
            raise UserError(f"image {index}: expected {expected}, got {shape}{_advice(image, allow_uint8)}")
    _check_ranges([(k, image) for k, image in enumerate(images) if image.is_floating_point() and not image.is_meta])


def _check_ranges(images: Sequence[tuple[int, Tensor]]) -> None:
    """Check values by one transfer from the device."""
    if not images:
        return
    device = images[0][1].device
    extremes = torch.stack([torch.stack(image.detach().aminmax()).to(device).float() for _, image in images])
    for (index, _), (low, high) in zip(images, extremes.tolist(), strict=True):
        if low >= -_MARGIN and high <= 1 + _MARGIN:  # false for NaN
            continue
        if low != low or high != high:
            raise UserError(f"image {index}: has NaN values; expected 0..1")
        advice = "divide by 255" if low >= -_MARGIN and high <= 255 + _MARGIN else "the detector normalises them itself"
        raise UserError(f"image {index}: values from {low:.4g} to {high:.4g}; expected 0..1: {advice}")


def _advice(image: Tensor, allow_uint8: bool) -> str:
    """Suffix of an error about shape or type: the probable mistake."""
    if image.layout != torch.strided:
        return ": convert it, image.to_dense()"
    if image.ndim == 2:
        return ": pass a list of images"
    if image.ndim == 4:
        return ": pass a list of images, one by one, not a list of batches"
    if image.ndim == 3 and image.shape[0] != 3:
        if image.shape[2] == 3:
            return ": move the channels to the front, image.permute(2, 0, 1)"
        return {1: ": repeat the channel, image.expand(3, -1, -1)", 4: ": drop the fourth, image[:3]"}.get(
            image.shape[0], ""
        )
    if image.dtype == torch.uint8 and not allow_uint8:
        return ": convert it, image / 255"
    return ""
