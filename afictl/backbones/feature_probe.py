"""Properties of a feature extractor that no description states, from maps computed on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from timm.models import FeatureListNet
from torch import Tensor, nn

_DIVISORS = (32, 64, 128, 160, 224, 256, 320, 384, 512)
"""Multiples of the coarsest stride that windows of fixed size may need; 224 is that of windows of 7 x 7."""
_IMAGES = 2
"""Batch norm in train mode needs two values of each channel, also on pooled maps."""


class UnsuitableMapsError(ValueError):
    """A network whose maps do not have the described shapes, or that computes none for most image sizes."""


@dataclass(frozen=True)
class FeatureProbe:
    """Properties of a feature extractor."""

    divisor: int
    """Height and width of images must be multiples of it."""
    channels_last: bool
    """Whether maps are (N, H, W, C)."""
    maps: dict[str, tuple[int, ...]]
    """Name of a parameter -> indices of the maps that depend on it."""


@torch.enable_grad()
def probe_features(net: FeatureListNet) -> FeatureProbe:
    """Compute the maps of ``net``, which is on the meta device, and whose shapes ``net.feature_info`` describes.

    Raises:
        UnsuitableMapsError: for no divisor the maps have the described shapes.
    """
    failures: list[Exception] = []
    for divisor in _DIVISORS:
        height, width = 2 * divisor, 3 * divisor
        try:
            maps = _maps(net, height, width)
            channels_last = _is_channels_last(net, maps, height, width)
        except Exception as error:  # timm's networks check sizes in many ways, by assertions and failing operations
            failures.append(error)
            continue
        return FeatureProbe(divisor, channels_last, _dependent_maps(maps, dict(net.named_parameters())))
    for failure in failures:
        if isinstance(failure, UnsuitableMapsError):
            raise failure
    raise UnsuitableMapsError("accepts images of one size only") from failures[0]


def _maps(net: nn.Module, height: int, width: int) -> list[Tensor]:
    return list(net(torch.zeros(_IMAGES, 3, height, width, device="meta")))


def _is_channels_last(net: FeatureListNet, maps: list[Tensor], height: int, width: int) -> bool:
    """Whether all maps are (N, H, W, C).

    Raises:
        UnsuitableMapsError: some are neither that nor (N, C, H, W).
    """
    info = zip(net.feature_info.channels(), net.feature_info.reduction(), strict=True)
    sizes = [(channels, height // stride, width // stride) for channels, stride in info]
    shapes = [tuple(value.shape[1:]) for value in maps]
    if shapes == sizes:
        return False
    if shapes == [(*size, channels) for channels, *size in sizes]:
        return True
    size, shape = next(pair for pair in zip(sizes, shapes, strict=True) if pair[0] != pair[1])
    raise UnsuitableMapsError(
        f"has a map of {_format(shape)} for an image of {height} x {width}, which has to be {_format(size)}; choose a"
        " network that pads its borders"
    )


def _format(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _dependent_maps(maps: list[Tensor], parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name of a parameter -> indices of ``maps`` that depend on it."""
    indices: dict[str, list[int]] = {name: [] for name in parameters}
    for index, value in enumerate(maps):
        gradients = torch.autograd.grad(value.sum(), list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                indices[name].append(index)
    return {name: tuple(of_parameter) for name, of_parameter in indices.items()}
