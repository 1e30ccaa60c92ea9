"""Models of other libraries behind the interface of ``Detector``."""

from __future__ import annotations

from torch import nn

from afictl.detectors.detector import Detector
from afictl.detectors.head import Head
from afictl.detectors.views import BackboneView, NeckView
from afictl.presets import Preset


class AdaptedDetector(Detector):
    """A ``Detector`` whose parts are views of ``model``, which another library built.

    Attributes:
        model: the model; in the state dict its names stand behind ``model.``.
        unsaved: names in the state dict that checkpoints of the library lack.

    Args:
        preset: what it was built from; ``preset.input`` holds the mean and standard deviation of the model.
        model: with its interpolator.
        head: has ``class_layers`` relative to the model.
        num_classes: K, without background.
        unsaved: see above.
    """

    def __init__(
        self,
        preset: Preset,
        model: nn.Module,
        backbone: BackboneView,
        neck: NeckView,
        head: Head,
        num_classes: int,
        unsaved: tuple[str, ...] = (),
    ) -> None:
        super().__init__(preset, backbone, neck, head, num_classes)
        self.model = model
        self.unsaved = unsaved

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Prefixes of the names of the tensors in the state dict whose shapes depend on the classes."""
        return tuple(f"model.{prefix}" for prefix in self.head.class_layers)
