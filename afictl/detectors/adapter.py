"""Models of other libraries behind the interface of ``Detector``.

The model stays one module with its own names, ``detector.model``. What ``Detector`` calls backbone, neck and head are
views of parts of it: plain objects that own nothing, so that no tensor is in the state dict twice. A library adds its
own views, each with the members that are named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from afictl.detectors.detector import Detector, HeadPart, ImageBatch
from afictl.presets import Preset


class BackboneView(Protocol):
    """The bottom-up network inside a model, as ``Backbone`` shows its own."""

    name: str
    """timm's name of the network, whose ImageNet weights it can start from."""
    net: nn.Module
    channels: dict[str, int]
    strides: dict[str, int]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) -> ``res*`` that the neck reads, finest first."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the part of the model that it shows."""

    def plain_to_net(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the network's ImageNet classifier under the names in ``net``, without the classifier."""


class NeckView(Protocol):
    """The feature pyramid inside a model, as afictl's necks show themselves."""

    channels: int
    strides: dict[str, int]
    """Pixels a position of each level, ``p2`` or ``p3`` first."""
    size_divisor: int
    enlargements: int

    @property
    def interpolator(self) -> Any:
        """The module that enlarges; also after another one was substituted."""

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res*`` -> ``p*``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the part of the model that it shows, the interpolator's among them."""


class HeadView(Protocol):
    """All of a model behind its pyramid; where it has masks, also with the ``segment`` of a ``Detector``'s head."""

    class_layers: tuple[str, ...]
    """Prefixes, relative to the model, of the names of parameters whose shapes depend on the classes."""

    def __call__(
        self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in train mode, detections without masks in eval mode, as the head of a ``Detector``."""

    def class_evidence(
        self, batch: ImageBatch, features: dict[str, Tensor], box: Tensor, label: int
    ) -> dict[str, Tensor]:
        """Which class logits answer for a given box of the one image; see ``Detector``."""

    def parts(self, features: dict[str, Tensor]) -> list[HeadPart]:
        """The parts to measure, run on tensors without storage."""


class AdaptedDetector(Detector):
    """A ``Detector`` whose parts are views of ``model``, which another library built.

    Attributes:
        model: the foreign module; its state-dict names keep behind ``model.``.
        unsaved: names in the state dict that checkpoints of the library lack.

    Args:
        preset: what it was built from; ``preset.input`` holds the mean and standard deviation of the model.
        model: has its interpolator in it already.
        num_classes: K, without background.
    """

    def __init__(
        self,
        preset: Preset,
        model: nn.Module,
        backbone: BackboneView,
        neck: NeckView,
        head: HeadView,
        num_classes: int,
    ) -> None:
        super().__init__(preset, backbone, neck, head, num_classes)
        self.model: Any = model
        self.unsaved: tuple[str, ...] = ()

    @property
    def class_layers(self) -> tuple[str, ...]:
        """How the names of the tensors in the state dict begin whose shapes depend on the classes."""
        return tuple(f"model.{prefix}" for prefix in self.head.class_layers)


def full_precision(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The maps in float32 at least.

    Other libraries place anchors and boxes in the type of the features, and bfloat16 resolves no pixel beyond 256;
    their heads therefore run outside autocast.
    """
    return {level: value.to(torch.promote_types(value.dtype, torch.float32)) for level, value in features.items()}
