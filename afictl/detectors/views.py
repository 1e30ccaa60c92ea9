"""Views of a model that another library built: its network as a ``FeatureExtractor``, its pyramid as a ``Neck``.

A view is a plain object, not a module: the model's tensors stand once in the state dict, under the model's own names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from afictl.detectors.head import FeatureMaps
from afictl.interpolators import Interpolator


class BackboneView(ABC):
    """The bottom-up network of a model as a ``FeatureExtractor``.

    Args:
        name: timm's name of the network, whose ImageNet weights it can start from.
        net: the network.
        channels: of each level that the neck reads, finest first.
        strides: stride of each of these levels in pixels.
    """

    converts_deviation = False

    def __init__(self, name: str, net: nn.Module, channels: dict[str, int], strides: dict[str, int]) -> None:
        self.name = name
        self.net = net
        self.channels = channels
        self.strides = strides

    @abstractmethod
    def __call__(self, images: Tensor) -> FeatureMaps:
        """Normalised images (N, 3, H, W) -> the maps ``res*`` that the neck reads."""

    @abstractmethod
    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's ImageNet classifier under the names in ``net``, without the classifier's last layer."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the network."""
        return self.net.parameters()


class NeckView(ABC):
    """The feature pyramid of a model as a ``Neck``.

    Args:
        pyramid: the module that has the interpolator as its part ``interpolator``.
        channels: of every level.
        strides: stride of each level in pixels, finest first.
        num_upsamplers: calls of the interpolator in one forward pass.
        size_divisor: of the height and width of images.
    """

    def __init__(
        self, pyramid: nn.Module, channels: int, strides: dict[str, int], num_upsamplers: int, size_divisor: int
    ) -> None:
        self._pyramid = pyramid
        self.channels = channels
        self.strides = strides
        self.num_upsamplers = int(num_upsamplers)  # a ``Substitution`` holds modules and cannot be copied
        self.size_divisor = size_divisor

    @property
    def interpolator(self) -> Interpolator:
        """The present interpolator of the model."""
        return cast(Interpolator, self._pyramid.get_submodule("interpolator"))

    @abstractmethod
    def __call__(self, features: Mapping[str, Tensor]) -> FeatureMaps:
        """``res*`` -> ``p*``."""

    @abstractmethod
    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the pyramid, those of the interpolator among them."""


@contextmanager
def full_precision(features: Mapping[str, Tensor]) -> Iterator[FeatureMaps]:
    """Disable autocast, and yield the maps in float32 at least.

    Other libraries place anchors and boxes in the type of the features, and bfloat16 resolves no pixel beyond 256.
    """
    device = next(iter(features.values())).device.type
    with torch.autocast(device, enabled=False):
        yield {level: value.to(torch.promote_types(value.dtype, torch.float32)) for level, value in features.items()}
