"""Detection in several views of an image, such as sizes or tiles, in place of one resized view."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from afictl.detectors import Detector
from afictl.detectors.head import Detections
from afictl.errors import UserError, describe_type


class Views(Protocol):
    """Way to detect in views of an image of any size."""

    def settings(self) -> dict[str, object]:
        """Values for records, by the name of the flag."""

    def detect(self, detector: Detector, image: Tensor) -> Detections:
        """Detect in all views and merge the detections.

        Args:
            detector: in eval mode, on any device.
            image: (3, H, W) RGB, uint8 or float in 0..1, of its original size.

        Returns:
            Detection as of ``Detector.detect`` in pixels of ``image``.

        Raises:
            UserError: too little memory for a view.
        """


def record_of(views: Views | None) -> dict[str, object]:
    """The settings of ``views`` for a record that has an entry for every kind of views."""
    return {"tta": None, "slice": None} | (views.settings() if views else {})


def require_detector(detector: nn.Module, purpose: str) -> Detector:
    """Return ``detector`` if it supports several views.

    Raises:
        UserError: it is not a ``Detector``: another module has neither a known NMS threshold nor ``segment``.
    """
    if not isinstance(detector, Detector):
        raise UserError(
            f"{purpose} needs a detector built from a preset, not {describe_type(detector)}; "
            "torchvision's and detectron2's models have presets too, see 'afictl model list'"
        )
    return detector
