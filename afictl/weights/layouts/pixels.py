"""How other networks want their pixels, and how their first convolution is made to take ours.

Ours are RGB in 0..1, minus a mean and divided by a standard deviation. Order and scale of the pixels move into the
weights exactly, at the borders too: an image is padded with zeros after its normalisation, there and here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from afictl.presets import InputConfig

Triple = tuple[float, float, float]

_MEAN = (123.675, 116.28, 103.53)


class Pixels(NamedTuple):
    """Pixel values in 0..255 minus ``mean``, divided by ``std``; both are told in RGB order."""

    bgr: bool
    """Whether the network takes the channels as blue, green, red."""
    mean: Triple
    std: Triple


MSRA = Pixels(True, _MEAN, (1.0, 1.0, 1.0))
"""The ImageNet ResNets of MSRA, which detectron2's detectors start from."""
RESNEXT = Pixels(True, _MEAN, (58.395, 57.12, 57.375))
"""detectron2's ResNeXts."""
TORCHVISION = Pixels(False, _MEAN, (58.395, 57.12, 57.375))
AFIGAN = Pixels(False, _MEAN, (58.393, 57.12, 57.375))
"""The ResNeSts and Swins of the public AFI-GAN."""


def recorded_pixels(tensors: Mapping[str, Tensor]) -> Pixels | None:
    """What detectron2's buffers ``pixel_mean`` and ``pixel_std`` say; only some of its versions saved them.

    They are in the order of the network. ImageNet's red mean is the highest, which tells the order; equal
    ones are detectron2's default, BGR.
    """
    found = [tensors.get(name) for name in ("pixel_mean", "pixel_std")]
    if any(value is None or value.numel() != 3 for value in found):
        return None
    mean, std = (tuple(value.flatten().tolist()) for value in found if value is not None)
    if min(std) <= 0:
        return None
    bgr = mean[0] <= mean[-1]
    return Pixels(bgr, *(values[::-1] for values in (mean, std))) if bgr else Pixels(bgr, mean, std)


def preset_mean(pixels: Pixels, own: Triple) -> Triple:
    """The mean for a preset with the mean ``own``: that one itself, where it is the same."""
    mean = tuple(value / 255 for value in pixels.mean)
    same = all(abs(a - b) < 1e-6 for a, b in zip(mean, own, strict=True))
    return own if same else (mean[0], mean[1], mean[2])


def fold_pixels(weight: Tensor, pixels: Pixels, view: InputConfig) -> Tensor:
    """The first convolution's weights (out, 3, h, w), made for ``pixels``, for images normalised as ``view`` says."""
    if weight.ndim != 4 or weight.shape[1] != 3:
        return weight  # the loading will say that it does not fit
    scale = 255 * torch.tensor(view.std, dtype=torch.float64) / torch.tensor(pixels.std, dtype=torch.float64)
    ours = weight.flip(1) if pixels.bgr else weight
    return (ours.double() * scale.view(1, 3, 1, 1)).float()
