"""Pixel order and scale of other networks, and the conversion of their first convolution.

afictl's pixels are RGB in 0..1, minus a mean and divided by a standard deviation. Order and scale are folded into the
weights exactly, at the borders too: images are zero-padded after normalisation in all of these projects.
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
    """Normalisation of pixel values in 0..255: minus ``mean``, divided by ``std``, both in RGB order."""

    bgr: bool
    """Whether the channel order of the network is blue, green, red."""
    mean: Triple
    std: Triple


MSRA = Pixels(True, _MEAN, (1.0, 1.0, 1.0))
"""ImageNet ResNets of MSRA, the initial weights of detectron2's detectors."""
RESNEXT = Pixels(True, _MEAN, (58.395, 57.12, 57.375))
"""detectron2's ResNeXts."""
TORCHVISION = Pixels(False, _MEAN, (58.395, 57.12, 57.375))
AFIGAN_RESNEST = Pixels(False, (123.68, 116.779, 103.939), (58.393, 57.12, 57.375))
"""The ResNeSts of the public AFI-GAN, as of the ResNeSt that its configurations are based on."""
AFIGAN_SWIN = Pixels(False, _MEAN, (58.393, 57.12, 57.375))
"""The Swins of the public AFI-GAN."""


def recorded_pixels(tensors: Mapping[str, Tensor]) -> Pixels | None:
    """The normalisation in detectron2's buffers ``pixel_mean`` and ``pixel_std``, which only some versions saved.

    They are in the channel order of the network. ImageNet's red mean is the highest, which identifies the order;
    equal means are detectron2's default, BGR.
    """
    statistics = [tensors.get(name) for name in ("pixel_mean", "pixel_std")]
    if any(value is None or value.numel() != 3 for value in statistics):
        return None
    mean, std = (tuple(value.flatten().tolist()) for value in statistics if value is not None)
    if min(std) <= 0:
        return None
    bgr = mean[0] <= mean[-1]
    return Pixels(bgr, *(values[::-1] for values in (mean, std))) if bgr else Pixels(bgr, mean, std)


def preset_mean(pixels: Pixels, default: Triple) -> Triple:
    """The mean in 0..1; exactly ``default``, a preset's, if they agree to 1e-6."""
    mean = tuple(value / 255 for value in pixels.mean)
    same = all(abs(a - b) < 1e-6 for a, b in zip(mean, default, strict=True))
    return default if same else (mean[0], mean[1], mean[2])


def fold_pixels(weight: Tensor, pixels: Pixels, config: InputConfig) -> Tensor:
    """Convert first-convolution weights (out, 3, h, w) from ``pixels`` to images normalised as ``config``."""
    if weight.ndim != 4 or weight.shape[1] != 3:
        return weight  # the load report shows the mismatch
    scale = 255 * torch.tensor(config.std, dtype=torch.float64) / torch.tensor(pixels.std, dtype=torch.float64)
    rgb = weight.flip(1) if pixels.bgr else weight
    return (rgb.double() * scale.view(1, 3, 1, 1)).float()
