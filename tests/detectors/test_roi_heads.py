from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from afictl.detectors import Detector
from afictl.detectors.roi_heads import box_losses


def test_box_losses_equal_the_formula_of_detectron2() -> None:
    torch.manual_seed(0)
    logits, deltas, target_deltas = torch.randn(5, 4), torch.randn(5, 12), torch.randn(5, 4)
    labels = torch.tensor([0, 3, 0, 1, 0])
    losses = box_losses(logits, deltas, labels, target_deltas)
    of_class = torch.stack([deltas[1, 8:12], deltas[3, 0:4]])
    torch.testing.assert_close(losses["loss_classifier"], F.cross_entropy(logits, labels))
    # summed over the four numbers of the two objects, divided by all five regions
    torch.testing.assert_close(losses["loss_box_reg"], (of_class - target_deltas[[1, 3]]).abs().sum() / 5)


def test_box_losses_without_regions_are_zero() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    losses = box_losses(logits, torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert {name: value.item() for name, value in losses.items()} == {"loss_classifier": 0, "loss_box_reg": 0}


def test_box_loss_uses_class_agnostic_deltas() -> None:
    torch.manual_seed(0)
    logits, deltas, target_deltas = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4)
    losses = box_losses(logits, deltas, torch.tensor([0, 3, 1]), target_deltas)
    torch.testing.assert_close(losses["loss_box_reg"], (deltas - target_deltas)[1:].abs().sum() / 3)


@pytest.mark.parametrize("kind", ["faster-rcnn", "mask-rcnn"])
def test_rcnns_with_other_box_heads_detect(build: Callable[..., Detector], kind: str) -> None:
    detector = build(kind, "detector.box_head=4conv1fc", "detector.head_norm=batch").eval()
    with torch.no_grad():
        assert len(detector([torch.rand(3, 70, 90)])) == 1
