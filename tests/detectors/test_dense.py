import math

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from afictl.detectors.dense import (
    Candidates,
    conv_tower,
    flatten_map,
    focal_loss,
    initialize_head,
    suppress,
    top_scores,
)


def test_flatten_map_orders_by_position_then_anchor() -> None:
    value = torch.arange(2 * 6 * 2 * 3).view(2, 6, 2, 3)  # 3 anchors of width 2
    rows = flatten_map(value, 2)
    assert rows.shape == (2, 18, 2)
    expected = [value[1, a * 2 : a * 2 + 2, y, x].tolist() for y in range(2) for x in range(3) for a in range(3)]
    assert rows[1].tolist() == expected


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(256, 32), (160, 32), (64, 32), (32, 16), (16, 8), (48, 16), (1, 1)],
)
def test_group_norm_of_a_tower_works_on_one_position(channels: int, groups: int) -> None:
    layers = conv_tower(channels, group_norm=True)
    assert layers[1].num_groups == groups
    if channels > 1:
        assert layers(torch.randn(1, channels, 1, 1)).shape == (1, channels, 1, 1)


def test_initial_scores_are_low() -> None:
    layers, logits = conv_tower(64), nn.Conv2d(64, 3, 3)
    initialize_head((layers, logits), logits)
    assert logits.bias.sigmoid().tolist() == pytest.approx([0.01] * 3)
    assert layers[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not layers[0].bias.any()


def test_focal_loss_sums_over_the_classes() -> None:
    logits = torch.tensor([[0.3, -2.0], [1.5, 0.2], [-0.7, 4.0]])
    expected = 0.0
    for row, label in zip(logits.tolist(), [2, 0, -1], strict=True):
        for index, logit in enumerate(row):
            score = 1 / (1 + math.exp(-logit))
            if label == index + 1:
                expected += -0.25 * (1 - score) ** 2 * math.log(score)
            elif label >= 0:
                expected += -0.75 * score**2 * math.log(1 - score)
    assert focal_loss(logits, torch.tensor([2, 0, -1])).item() == pytest.approx(expected, rel=1e-5)


def test_top_scores_are_the_highest_allowed_ones() -> None:
    scores = torch.tensor([[0.9, 0.2], [0.4, 0.8], [0.7, 0.1]])
    rows, labels, highest = top_scores(scores, scores < 0.85, limit=3)
    assert rows.tolist() == [1, 2, 1]
    assert labels.tolist() == [2, 1, 1]
    torch.testing.assert_close(highest, torch.tensor([0.8, 0.7, 0.4]))
    assert [len(field) for field in top_scores(scores, scores > 1, limit=3)] == [0, 0, 0]


def candidates(*rows: tuple[list[float], int, float]) -> Candidates:
    boxes, labels, scores = zip(*rows, strict=True)
    return Candidates(torch.tensor(boxes), torch.tensor(labels), torch.tensor(scores))


def test_suppression_is_per_class_and_across_levels() -> None:
    fine = candidates(([0.0, 0, 10, 10], 1, 0.5), ([0.0, 0, 10, 10], 2, 0.6))
    coarse = candidates(([0.0, 0, 10, 9], 1, 0.7), ([20.0, 20, 30, 30], 1, 0.4))
    detections = suppress([fine, coarse], (40, 40), threshold=0.5, limit=10)
    assert detections["labels"].tolist() == [1, 2, 1]
    torch.testing.assert_close(detections["scores"], torch.tensor([0.7, 0.6, 0.4]))
    assert len(suppress([fine, coarse], (40, 40), threshold=0.5, limit=2)["labels"]) == 2


def test_boxes_are_compared_before_they_are_clipped() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 200], [0, 0, 20, 50]])
    assert box_iou(boxes, boxes)[0, 1] < 0.5 < 1
    both = Candidates(boxes, torch.tensor([1, 1]), torch.tensor([0.9, 0.8]))
    detections = suppress([both], (40, 40), threshold=0.5, limit=10)
    assert detections["boxes"].tolist() == [[0, 0, 20, 40], [0, 0, 20, 40]]


def test_empty_and_infinite_boxes_are_dropped() -> None:
    inf, nan = math.inf, math.nan
    rows = [
        ([0.0, 0, 10, 10], 1, 0.5),
        ([0.0, 0, 10, 9], 1, 0.4),  # overlaps the first
        ([5.0, 5, 5, 9], 1, 0.9),  # no width
        ([50.0, 0, 60, 10], 1, 0.9),  # outside
        ([0.0, 0, inf, 10], 1, 0.9),
        ([0.0, nan, 10, 10], 1, 0.9),
    ]
    detections = suppress([candidates(*rows)], (40, 40), threshold=0.5, limit=10)
    assert detections["boxes"].tolist() == [[0, 0, 10, 10]]
