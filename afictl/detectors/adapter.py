"""Models of other libraries behind the interface of ``Detector``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from afictl.detectors.detector import Detector
from afictl.detectors.head import FeatureMaps, Head, Losses, Target
from afictl.detectors.views import BackboneView, NeckView
from afictl.presets import Preset
from afictl.total_batch import num_micro_batches


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

    def losses_and_pyramid(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None
    ) -> tuple[Losses, FeatureMaps]:
        """As ``Detector``; the model normalises its losses by these images alone, and micro-batches are averaged."""
        losses, features = super().losses_and_pyramid(images, targets)
        return {name: loss / num_micro_batches() for name, loss in losses.items()}, features

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Prefixes of the names of the tensors in the state dict whose shapes depend on the classes."""
        return tuple(f"model.{prefix}" for prefix in self.head.class_layers)


def changed_settings(preset: Preset, fixed: Preset) -> Iterator[tuple[str, object, object]]:
    """Settings of the architecture in ``preset`` that differ from ``fixed``: dotted key, value in ``fixed``, value."""
    for section in ("backbone", "neck", "detector"):
        values, expected = (getattr(source, section).model_dump() for source in (preset, fixed))
        for key, value in values.items():  # the kind of a section is its first key
            if value != expected.get(key):
                yield f"{section}.{key}", expected.get(key), value
