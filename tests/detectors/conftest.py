from collections.abc import Callable

import pytest
import torch

from afictl.detectors import Detector, build_detector
from tests.helpers.narrow_presets import narrow_preset
from tests.helpers.targets import no_object


@pytest.fixture
def build() -> Callable[..., Detector]:
    """A detector with few channels and three classes, the same weights every time."""

    def make(kind: str = "mask-rcnn", *overrides: str) -> Detector:
        torch.manual_seed(0)
        return build_detector(narrow_preset(f"{kind}-r18-fpn-tiny", *overrides), num_classes=3)

    return make


@pytest.fixture
def images() -> list[torch.Tensor]:
    """Two images of different, odd sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((97, 131), (120, 75))]


@pytest.fixture
def targets() -> list[dict[str, torch.Tensor]]:
    """Two objects in the first image, none in the second."""
    masks = torch.zeros(2, 97, 131, dtype=torch.uint8)
    masks[0, 10:40, 10:50] = masks[1, 50:90, 60:120] = 1
    boxes = torch.tensor([[10.0, 10, 50, 40], [60, 50, 120, 90]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}, no_object(120, 75)]
