import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from afictl.detectors.retinanet import AnchorOutputs, RetinaNetHead

CLASSES = 2
STRIDES = {"p3": 8, "p4": 16}
SETTINGS = {"anchor_sizes": (12, 24), "anchor_ratios": (0.5, 1.0), "anchors_per_octave": 2, "candidates": 1000}
SETTINGS |= {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}
NO_OBJECT = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@pytest.fixture
def head() -> RetinaNetHead:
    """For maps of 4 x 4 and 2 x 2 positions with four anchors each."""
    torch.manual_seed(0)
    return RetinaNetHead(4, STRIDES, CLASSES, **SETTINGS)


@pytest.fixture
def outputs() -> AnchorOutputs:
    """Of a batch of two images."""
    torch.manual_seed(1)
    sizes = ((4, 4), (2, 2))
    logits = [torch.randn(2, 4 * CLASSES, *size) for size in sizes]
    return AnchorOutputs(logits, [torch.randn(2, 4 * 4, *size) * 0.2 for size in sizes])


@pytest.fixture
def target() -> dict[str, Tensor]:
    """Objects that anchors fit well, in part, and (the last) hardly."""
    boxes = torch.tensor([[1.0, 2, 14, 12], [10, 8, 32, 30], [20, 1, 25, 5]])
    return {"boxes": boxes, "labels": torch.tensor([1, 2, 2])}


def test_initial_weights_have_the_documented_deviation(head: RetinaNetHead) -> None:
    wide = RetinaNetHead(64, STRIDES, 80, **SETTINGS)
    assert wide.class_logits.bias.tolist() == pytest.approx([-math.log(99)] * 320)
    for layer in (wide.class_tower[0], wide.box_tower[6], wide.class_logits, wide.box_deltas):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not wide.box_deltas.bias.any()
    assert head.state_dict()["normalizer"] == 100


def losses_in_loop(
    head: RetinaNetHead, outputs: AnchorOutputs, image: int, target: dict[str, Tensor]
) -> dict[str, float]:
    """Sums of both losses over the anchors of an image, and counts of the kinds of anchor."""
    anchors = torch.cat(head.anchors.levels(outputs.logits))
    overlaps = box_iou(target["boxes"], anchors)
    sums = {"class": 0.0, "box": 0.0, "positive": 0, "low": 0, "ignored": 0}
    index = 0
    for logits, deltas in zip(*outputs, strict=True):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                for a in range(4):
                    column = overlaps[:, index]
                    is_best = column == overlaps.max(dim=1).values
                    positive = bool(column.max() >= 0.5 or is_best.any())
                    ignored = not positive and bool(column.max() >= 0.4)
                    nearest = int(column.argmax())
                    sums["positive"] += positive
                    sums["low"] += positive and bool(column.max() < 0.5)
                    sums["ignored"] += ignored
                    if positive:
                        delta = deltas[image, 4 * a : 4 * a + 4, y, x]
                        sums["box"] += box_loss(delta, anchors[index], target["boxes"][nearest])
                    for k in range(0 if ignored else CLASSES):
                        score = logits[image, a * CLASSES + k, y, x].sigmoid().item()
                        is_class = positive and target["labels"][nearest] == k + 1
                        correct = score if is_class else 1 - score
                        sums["class"] -= (0.25 if is_class else 0.75) * (1 - correct) ** 2 * math.log(correct)
                    index += 1
    return sums


def box_loss(delta: Tensor, anchor: Tensor, box: Tensor) -> float:
    size, target_size = anchor[2:] - anchor[:2], box[2:] - box[:2]
    shift = ((box[:2] + box[2:]) - (anchor[:2] + anchor[2:])) / 2 / size
    distance = (delta - torch.cat((shift, (target_size / size).log()))).abs()
    return distance.sum().item()


def test_losses_equal_a_loop_over_anchors(
    head: RetinaNetHead, outputs: AnchorOutputs, target: dict[str, Tensor]
) -> None:
    losses = head.compute_losses(outputs, [target, {**target, "boxes": target["boxes"].flip(0)}])
    sums = [
        losses_in_loop(head, outputs, 0, target),
        losses_in_loop(head, outputs, 1, {**target, "boxes": target["boxes"].flip(0)}),
    ]
    total = {name: sum(of_image[name] for of_image in sums) for name in sums[0]}
    assert all(total[name] > 0 for name in ("positive", "low", "ignored"))  # every kind of anchor is there
    assert total["positive"] > total["low"]
    divisor = 0.9 * 100 + 0.1 * total["positive"]
    assert losses["loss_classifier"].item() == pytest.approx(total["class"] / divisor, rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(total["box"] / divisor, rel=1e-4)


def test_the_divisor_is_a_running_mean_that_is_saved(head: RetinaNetHead, outputs: AnchorOutputs) -> None:
    box = torch.tensor([[1.0, 2, 14, 12]])
    target = {"boxes": box, "labels": torch.tensor([1])}
    first = head.compute_losses(outputs, [target, NO_OBJECT])
    count = (head.normalizer.item() - 90) / 0.1
    assert count == pytest.approx(losses_in_loop(head, outputs, 0, target)["positive"], abs=1e-3)
    second = head.compute_losses(outputs, [target, NO_OBJECT])
    assert head.normalizer.item() == pytest.approx(81 + 0.19 * count, abs=1e-4)
    assert second["loss_box_reg"] > first["loss_box_reg"]

    resumed = RetinaNetHead(4, STRIDES, CLASSES, **SETTINGS)
    resumed.load_state_dict(head.state_dict())
    assert torch.equal(
        *(model.compute_losses(outputs, [target, NO_OBJECT])["loss_box_reg"] for model in (head, resumed))
    )


def test_a_batch_without_objects_counts_as_one_positive(head: RetinaNetHead, outputs: AnchorOutputs) -> None:
    losses = head.compute_losses(outputs, [NO_OBJECT, NO_OBJECT])
    assert head.normalizer.item() == pytest.approx(90.1)
    assert losses["loss_box_reg"] == 0
    logits = torch.cat([level.flatten() for level in outputs.logits])
    background = (0.75 * logits.sigmoid() ** 2 * F.softplus(logits)).sum()
    assert losses["loss_classifier"].item() == pytest.approx(background.item() / 90.1, rel=1e-4)


def test_detections_are_the_decoded_anchors_of_the_best_scores(head: RetinaNetHead) -> None:
    logits = [torch.full((1, 8, 4, 4), -9.0), torch.full((1, 8, 2, 2), -9.0)]
    deltas = [torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 2, 2)]
    logits[0][0, 2 * CLASSES + 1, 1, 2] = 2.0  # third anchor, second class, at x = 16, y = 8
    deltas[0][0, 2 * 4 : 2 * 4 + 2, 1, 2] = 0.1
    logits[1][0, 0, 1, 0] = 1.0  # first anchor, first class, at x = 0, y = 16
    detections = head.select_detections(AnchorOutputs(logits, deltas), [(32, 32)])[0]
    assert detections["labels"].tolist() == [2, 1]
    assert detections["scores"].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))])
    height, width = 12 * 2**0.5 * 0.5**0.5, 12 * 2**0.5 / 0.5**0.5
    x, y = 16 + 0.1 * width, 8 + 0.1 * height
    expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert detections["boxes"][0].tolist() == pytest.approx(expected, abs=1e-4)
    assert detections["boxes"][1].tolist() == pytest.approx([0, 16 - 24 * 0.5**1.5, 24 * 0.5**0.5, 16 + 24 * 0.5**1.5])
