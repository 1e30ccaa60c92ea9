import math

import pytest
import torch
from torchvision.ops import generalized_box_iou

from afictl.detectors.points import Points, assign, centerness, giou_loss, sides_to_boxes

INF = math.inf


def two_levels() -> Points:
    """4 x 4 points at stride 8 for objects of up to 20 px a side, 2 x 2 at stride 16 for larger ones."""
    fine = Points.from_map(torch.zeros(1, 1, 4, 4), 8, 0.0, 20.0)
    return Points.join([fine, Points.from_map(torch.zeros(1, 1, 2, 2), 16, 20.0, INF)])


def target(*boxes: list[float], labels: list[int]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}


def test_points_are_the_centres_of_positions_row_by_row() -> None:
    points = Points.from_map(torch.zeros(1, 1, 2, 3), 8, 0.0, 20.0)
    assert points.xy.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert (points.strides == 8).all()
    assert (points.high == 20).all()


def test_an_object_has_the_points_near_its_centre() -> None:
    # The fine points lie at 4, 12, 20, 28. Within 12 px of the centre (17, 12): x of 12, 20, 28, y of 4, 12, 20.
    # From x = 28 the left side is 22 px away, more than that level predicts.
    labels, sides = assign(two_levels(), target([6.0, 2, 28.5, 22], labels=[3]))
    assert [row.tolist() for row in labels[:16].view(4, 4)] == [[0, 3, 3, 0], [0, 3, 3, 0], [0, 3, 3, 0], [0] * 4]
    torch.testing.assert_close(sides[5], torch.tensor([6.0, 10, 16.5, 10]) / 8)
    # The coarse points at 8 and 24 are inside and near, but only from x = 8 it is more than 20 px to a side.
    assert labels[16:].tolist() == [3, 0, 0, 0]
    torch.testing.assert_close(sides[16], torch.tensor([2.0, 6, 20.5, 14]) / 16)


def test_a_point_predicts_the_smaller_of_two_objects() -> None:
    large, small = [0.0, 0, 24, 24], [8.0, 8, 17, 17]
    for boxes, names in (((large, small), [1, 2]), ((small, large), [2, 1])):
        labels, sides = assign(two_levels(), target(*boxes, labels=names))
        assert labels[:16].view(4, 4)[:3, :3].tolist() == [[1, 1, 1], [1, 2, 1], [1, 1, 1]]
        torch.testing.assert_close(sides[5], torch.tensor([4.0, 4, 5, 5]) / 8)


def test_bounds_of_a_level_are_inclusive_and_the_box_side_is_not_inside() -> None:
    labels, _ = assign(two_levels(), target([4.0, 0, 32, 8], labels=[1]))  # 20 px from x = 12 to the right
    assert labels[:4].tolist() == [0, 1, 1, 0]
    labels, _ = assign(two_levels(), target([0.0, 0, 12, 8], labels=[1]))  # x = 12 is the border
    assert labels[:4].tolist() == [1, 0, 0, 0]


def test_without_objects_all_is_background() -> None:
    labels, sides = assign(two_levels(), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)})
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0] * 20
    assert sides.shape == (20, 4)


def test_assignment_equals_a_loop_over_points_and_objects() -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(12, 2, generator=generator) * 50
    boxes = torch.cat((corners, corners + 3 + torch.rand(12, 2, generator=generator) * 50), dim=1)
    names = torch.randint(1, 5, (12,), generator=generator)
    fine = Points.from_map(torch.zeros(1, 1, 8, 8), 8, 0.0, 20.0)
    points = Points.join([fine, Points.from_map(torch.zeros(1, 1, 4, 4), 16, 20.0, INF)])
    labels, sides = assign(points, {"boxes": boxes, "labels": names})
    for index, ((x, y), stride, low, high) in enumerate(zip(*(field.tolist() for field in points), strict=True)):
        candidates = []
        for (x1, y1, x2, y2), name in zip(boxes.tolist(), names.tolist(), strict=True):
            distances = (x - x1, y - y1, x2 - x, y2 - y)
            near = abs(x - (x1 + x2) / 2) < 1.5 * stride and abs(y - (y1 + y2) / 2) < 1.5 * stride
            if near and min(distances) > 0 and low <= max(distances) <= high:
                candidates.append(((x2 - x1) * (y2 - y1), name, [distance / stride for distance in distances]))
        _, name, expected = min(candidates, default=(0, 0, None))
        assert labels[index] == name
        if expected:
            assert sides[index].tolist() == pytest.approx(expected, abs=1e-5)
    assert (labels[:64] > 0).sum() > 5
    assert (labels[64:] > 0).sum() > 5


def test_centerness_is_the_root_of_the_ratios_of_sides() -> None:
    sides = torch.tensor([[2.0, 3, 2, 3], [1, 1, 4, 1], [1, 4, 4, 1]])
    torch.testing.assert_close(centerness(sides), torch.tensor([1.0, 0.5, 0.25]))


def test_giou_loss_equals_that_of_boxes_with_a_square_stride_added_in_the_iou() -> None:
    torch.manual_seed(0)
    sides, targets = torch.rand(6, 4) * 5, torch.rand(6, 4) * 5 + 0.1
    boxes, target_boxes = (sides_to_boxes(torch.tensor([7.0, 9.0]), value) for value in (sides, targets))
    losses = giou_loss(sides, targets)
    for i, (a, b) in enumerate(zip(boxes, target_boxes, strict=True)):
        width, height = (torch.minimum(a, b)[2:] - torch.maximum(a, b)[:2]).tolist()
        common, union = width * height, sum((value[2:] - value[:2]).prod().item() for value in (a, b)) - width * height
        plain = generalized_box_iou(a[None], b[None]).item()
        smoothed = plain - common / union + (common + 1) / (union + 1)
        assert losses[i].item() == pytest.approx(1 - smoothed, abs=1e-4)
    assert giou_loss(targets, targets).abs().max() < 1e-6


def test_giou_loss_of_a_box_without_area_is_finite() -> None:
    sides = torch.zeros(1, 4, requires_grad=True)
    loss = giou_loss(sides, torch.ones(1, 4))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert sides.grad.isfinite().all()
