import math

import pytest
import torch
from torch import Tensor, nn

from afictl.detectors.fcos import FCOSHead, PointOutputs
from afictl.detectors.points import Points, assign

CLASSES = 2
STRIDES = {"p3": 8, "p4": 16}
SIZES = ((4, 4), (2, 2))
SETTINGS = {"size_ranges": (16,), "level_scales": False, "candidates": 1000}
SETTINGS |= {"score_threshold": 0.05, "nms_threshold": 0.6, "max_detections": 100}
TARGETS = [
    {"boxes": torch.tensor([[1.0, 2, 14, 12], [6, 8, 32, 30], [20, 1, 30, 9]]), "labels": torch.tensor([1, 2, 2])},
    {"boxes": torch.tensor([[3.0, 5, 27, 21]]), "labels": torch.tensor([2])},
]


def small_head(**settings: object) -> FCOSHead:
    torch.manual_seed(0)
    return FCOSHead(4, STRIDES, CLASSES, **{**SETTINGS, **settings})


@pytest.fixture
def outputs() -> PointOutputs:
    """Of a batch of two images."""
    torch.manual_seed(1)
    logits, centers = ([torch.randn(2, n, *size) for size in SIZES] for n in (CLASSES, 1))
    return PointOutputs(logits, [torch.rand(2, 4, *size) * 2 for size in SIZES], centers)


def test_outputs_are_float32_maps_of_every_level() -> None:
    head = small_head()
    features = {level: torch.randn(2, 4, *size) for level, size in zip(STRIDES, SIZES, strict=True)}
    outputs = head.outputs({**features, "p2": torch.randn(2, 4, 8, 8)})  # a level without a stride
    for maps, channels in zip(outputs, (CLASSES, 4, 1), strict=True):
        assert [tuple(value.shape) for value in maps] == [(2, channels, *size) for size in SIZES]
    assert all((value >= 0).all() for value in outputs.distances)
    assert not list(head.scales.parameters())


def test_level_scales_multiply_distances_before_the_relu() -> None:
    plain, scaled = small_head(), small_head(level_scales=True)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    features = {level: torch.randn(1, 4, *size) for level, size in zip(STRIDES, SIZES, strict=True)}
    for plain_map, scaled_map in zip(plain.outputs(features)[1], scaled.outputs(features)[1], strict=True):
        assert torch.equal(plain_map, scaled_map)
    with torch.no_grad():
        scaled.scales["p4"].fill_(3.0)
    fine, coarse = scaled.outputs(features).distances
    assert torch.equal(fine, plain.outputs(features).distances[0])
    torch.testing.assert_close(coarse, plain.outputs(features).distances[1] * 3)


def test_initial_weights_have_the_documented_deviation() -> None:
    head = FCOSHead(64, STRIDES, 80, **SETTINGS)
    assert head.class_logits.bias.tolist() == pytest.approx([-math.log(99)] * 80)
    for layer in (head.class_tower[0], head.box_tower[9], head.class_logits, head.box_distances, head.centerness):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.15)
    norms = [layer for layer in head.modules() if isinstance(layer, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [32] * 8


def test_losses_equal_a_loop_over_points(outputs: PointOutputs) -> None:
    head = small_head()
    points = Points.join(head.points(outputs.logits))
    class_sum = box_sum = center_sum = weights = count = 0.0
    for image, target in enumerate(TARGETS):
        labels, sides = assign(points, target)
        positions = [(level, y, x) for level, (h, w) in enumerate(SIZES) for y in range(h) for x in range(w)]
        for (level, y, x), label, (left, top, right, bottom) in zip(
            positions, labels.tolist(), sides.tolist(), strict=True
        ):
            for k in range(CLASSES):
                score = outputs.logits[level][image, k, y, x].sigmoid().item()
                correct = score if label == k + 1 else 1 - score
                class_sum -= (0.25 if label == k + 1 else 0.75) * (1 - correct) ** 2 * math.log(correct)
            if label == 0:
                continue
            count += 1
            across, down = (min(a, b) / max(a, b) for a, b in ((left, right), (top, bottom)))
            weight = math.sqrt(across * down)
            weights += weight
            center = outputs.centerness[level][image, 0, y, x].sigmoid().item()
            center_sum -= weight * math.log(center) + (1 - weight) * math.log(1 - center)
            box_sum += weight * giou_loss(outputs.distances[level][image, :, y, x].tolist(), (left, top, right, bottom))
    assert count > 5
    losses = head.compute_losses(outputs, TARGETS)
    assert losses["loss_classifier"].item() == pytest.approx(class_sum / count, rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(box_sum / weights, rel=1e-4)
    assert losses["loss_centerness"].item() == pytest.approx(center_sum / count, rel=1e-4)


def giou_loss(sides: list[float], target: tuple[float, ...]) -> float:
    """Of two boxes around a point, with a square stride added to both areas of the IoU."""

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return (left + right) * (top + bottom)

    common = area(*(min(pair) for pair in zip(sides, target, strict=True)))
    hull = area(*(max(pair) for pair in zip(sides, target, strict=True)))
    union = area(*sides) + area(*target) - common
    return 1 - ((common + 1) / (union + 1) - (hull - union) / hull)


def test_targets_as_outputs_have_no_box_loss_and_are_the_detections(outputs: PointOutputs) -> None:
    head = small_head()
    labels, sides = assign(Points.join(head.points(outputs.logits)), TARGETS[0])
    logits = torch.where(labels[:, None] == torch.arange(1, CLASSES + 1), 9.0, -9.0)
    perfect = PointOutputs(as_maps(logits), as_maps(sides), [value[:1] for value in outputs.centerness])
    losses = head.compute_losses(perfect, TARGETS[:1])
    assert losses["loss_box_reg"].item() == pytest.approx(0, abs=1e-6)
    assert losses["loss_classifier"].item() < 1e-4
    detections = head.select_detections(perfect, [(32, 32)])[0]
    order = detections["boxes"][:, 0].argsort()
    torch.testing.assert_close(detections["boxes"][order], TARGETS[0]["boxes"])
    assert detections["labels"][order].tolist() == TARGETS[0]["labels"].tolist()


def as_maps(rows: Tensor) -> list[Tensor]:
    """Rows of all points (P, C) as the maps of an image (1, C, h, w)."""
    levels = rows.split([h * w for h, w in SIZES])
    return [level.T.reshape(1, -1, *size) for level, size in zip(levels, SIZES, strict=True)]


def test_scores_are_thresholded_before_centerness_and_are_geometric_means() -> None:
    head = small_head()
    logits = [torch.full((1, CLASSES, *size), -9.0) for size in SIZES]
    centers = [torch.full((1, 1, *size), 9.0) for size in SIZES]
    distances = [torch.ones(1, 4, *size) for size in SIZES]
    above, below = math.log(0.06 / 0.94), math.log(0.04 / 0.96)
    logits[0][0, 1, 1, 2], centers[0][0, 0, 1, 2] = above, -2.0  # at (20, 12)
    logits[0][0, 0, 3, 3] = below
    logits[1][0, 0, 1, 1], centers[1][0, 0, 1, 1] = 1.0, 0.0  # at (24, 24)
    detections = head.select_detections(PointOutputs(logits, distances, centers), [(32, 30)])[0]
    assert detections["labels"].tolist() == [1, 2]
    expected = [math.sqrt(0.5 / (1 + math.exp(-1))), math.sqrt(0.06 / (1 + math.exp(2)))]
    assert detections["scores"].tolist() == pytest.approx(expected, rel=1e-4)
    assert detections["boxes"].tolist() == [[8, 8, 30, 32], [12, 4, 28, 20]]


def test_detections_in_train_mode_and_their_limit(outputs: PointOutputs) -> None:
    head = small_head().train()
    with torch.no_grad():
        unlimited = head.select_detections(outputs, [(32, 32)] * 2)
        limited = head.select_detections(outputs, [(32, 32)] * 2, limit=2)
    assert all(len(detections["boxes"]) > 2 for detections in unlimited)
    for detections, best_two in zip(unlimited, limited, strict=True):
        assert all(torch.equal(best_two[name], detections[name][:2]) for name in detections)


def test_a_pyramid_of_another_size_than_the_ranges_is_refused(outputs: PointOutputs) -> None:
    with pytest.raises(ValueError, match="zip"):
        small_head(size_ranges=(16.0, 32.0)).compute_losses(outputs, TARGETS)
