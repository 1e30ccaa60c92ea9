from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align

from afictl.detectors import Detector, build_detector, model_cost, predict
from afictl.detectors.centermask import RelativeRoIPool, SpatialAttention
from tests.helpers.narrow_presets import narrow_preset
from tests.helpers.targets import no_object

Build = Callable[..., Detector]
Targets = list[dict[str, Tensor]]
STRIDES = {"p3": 8, "p4": 16, "p5": 32}


@pytest.fixture
def build() -> Build:
    """A small CenterMask with three classes and a threshold that fresh weights exceed."""

    def make(*overrides: str) -> Detector:
        torch.manual_seed(0)
        preset = narrow_preset("centermask-r18-bifpn-tiny", "detector.score_threshold=0.005", *overrides)
        return build_detector(preset, num_classes=3)

    return make


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ((0, 0, 600, 400), "p5"),  # the whole image: ceil(5 - 0)
        ((0, 0, 301, 400), "p5"),  # just above a half: ceil(5 - 0.995)
        ((0, 0, 300, 400), "p4"),  # a half: ceil(5 - 1)
        ((10, 0, 310, 201), "p4"),  # just above a quarter
        ((0, 0, 300, 200), "p3"),  # a quarter: ceil(5 - 2)
        ((50, 50, 60, 60), "p3"),  # far below: ceil(5 - 11.2), but regions are pooled from no finer level
        ((50, 50, 50, 60), "p3"),  # no area at all
    ],
)
def test_regions_are_pooled_from_the_level_of_their_fraction_of_the_image(box: tuple[int, ...], level: str) -> None:
    torch.manual_seed(0)
    pyramid = {name: torch.randn(2, 3, 640 // stride, 640 // stride) for name, stride in STRIDES.items()}
    # In the first image, eight times smaller, the same box would be of another level.
    boxes = [torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([box], dtype=torch.float32)]
    pooled = RelativeRoIPool(STRIDES, 14)(pyramid, boxes, [(200, 150), (400, 600)])
    expected = roi_align(pyramid[level], [boxes[0][:0], boxes[1]], 14, 1 / STRIDES[level], aligned=True)
    torch.testing.assert_close(pooled[1:], expected)
    assert RelativeRoIPool(STRIDES, 14).levels(boxes, [(200, 150), (400, 600)])[0] == 1


def test_attention_weighs_positions_by_mean_and_maximum_of_the_channels() -> None:
    torch.manual_seed(0)
    attention, x = SpatialAttention(), torch.randn(2, 5, 6, 6)
    assert [tuple(value.shape) for value in attention.parameters()] == [(1, 2, 3, 3)]
    (weight,) = attention.parameters()
    of_mean = F.conv2d(x.sum(dim=1, keepdim=True) / 5, weight[:, :1], padding=1)
    of_maximum = F.conv2d(x.max(dim=1, keepdim=True).values, weight[:, 1:], padding=1)
    torch.testing.assert_close(attention(x), x / (1 + torch.exp(-of_mean - of_maximum)))
    assert attention(x[:0]).shape == (0, 5, 6, 6)


def degenerate(targets: Targets) -> Targets:
    """Masks without a pixel, and one that lies outside its box."""
    masks = torch.zeros_like(targets[0]["masks"])
    masks[1, :5, :5] = 1
    return [{**targets[0], "masks": masks}, targets[1]]


CASES: dict[str, Callable[[Targets], Targets]] = {
    "objects": lambda targets: targets,
    "no object": lambda _: [no_object(97, 131), no_object(120, 75)],
    "degenerate masks": degenerate,
}


@pytest.mark.parametrize("case", CASES)
def test_training_gives_finite_losses_and_a_gradient_to_everything(
    build: Build, images: list[Tensor], targets: Targets, case: str
) -> None:
    detector = build()
    losses = detector(images, CASES[case](targets))
    assert {"loss_mask", "loss_mask_iou"} < set(losses)
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    if case == "no object":
        assert losses["loss_mask"] == losses["loss_mask_iou"] == 0
    if case == "degenerate masks":
        assert losses["loss_mask_iou"] == 0
    sum(losses.values()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in detector.parameters())


def test_under_autocast_losses_are_float32_and_finite(build: Build, images: list[Tensor], targets: Targets) -> None:
    few = ("detector.roi_batch=12", "detector.max_detections=4")  # bfloat16 is slow on many processors
    detector = build(*few)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, targets)
        detection = detector.eval().detect(images[:1])[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert {detection[name].dtype for name in ("boxes", "scores", "mask_probs", "mask_scores")} == {torch.float32}


def test_masks_train_on_a_quarter_sample_of_regions_that_fit_an_object(build: Build, targets: Targets) -> None:
    head = build("detector.roi_batch=12").head
    objects = targets[0]["boxes"]
    shifted = objects.repeat_interleave(4, 0) + torch.arange(8)[:, None]  # up to 7 px away: IoU above 0.5
    proposals = torch.cat((shifted, torch.tensor([[0.0, 80, 30, 97], [10, 10, 20, 20]])))
    boxes, matches = head._regions({"boxes": proposals}, targets[0], torch.Generator().manual_seed(0))
    assert len(boxes) == 3
    assert (box_iou(boxes, objects)[torch.arange(3), matches] >= 0.5).all()
    head.regions_train = 512
    boxes, matches = head._regions({"boxes": proposals}, targets[0], torch.Generator().manual_seed(0))
    assert len(boxes) == 8 + 2  # the objects themselves are always candidates
    assert sorted(matches.tolist()) == [0] * 5 + [1] * 5
    boxes, matches = head._regions({"boxes": proposals}, no_object(97, 131), torch.Generator())
    assert (boxes.shape, matches.shape) == ((0, 4), (0,))


def test_detections_follow_the_convention_with_scores_of_masks(build: Build, images: list[Tensor]) -> None:
    detector = build("detector.max_detections=7").eval()
    with torch.no_grad():
        predictions, on_grids = detector(images), detector.detect(images)
    for image, prediction, detections in zip(images, predictions, on_grids, strict=True):
        assert set(prediction) == {"boxes", "labels", "scores", "masks", "mask_scores"}
        assert prediction["masks"].shape == (7, *image.shape[-2:])
        assert detections["mask_probs"].shape == (7, 28, 28)
        assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)
        assert torch.equal(prediction["mask_scores"], detections["mask_scores"])
        assert ((prediction["mask_scores"] >= 0) & (prediction["mask_scores"] <= prediction["scores"])).all()


@pytest.mark.parametrize(("iou", "factor"), [(0.25, 0.25), (1.7, 1.0), (-0.3, 0.0)])
def test_mask_score_is_the_box_score_times_the_predicted_iou_of_the_class(
    build: Build, images: list[Tensor], iou: float, factor: float
) -> None:
    detector = build().eval()
    scorer = detector.head.mask_scorer
    with torch.no_grad():
        before = detector(images[:1])[0]
        scorer.iou.weight.zero_()
        scorer.iou.bias.copy_(torch.tensor([iou, iou, 0.5]))
        after = detector(images[:1])[0]
    for name in ("boxes", "labels", "scores", "masks"):
        assert torch.equal(before[name], after[name])
    factors = torch.tensor([factor, factor, 0.5])[after["labels"] - 1]
    torch.testing.assert_close(after["mask_scores"], after["scores"] * factors)


def test_scoring_changes_the_order_of_masks_and_not_of_boxes(build: Build, images: list[Tensor]) -> None:
    detector = build()
    with torch.no_grad():
        detector.head.mask_scorer.iou.weight.normal_(std=1)
        detector.head.mask_scorer.iou.bias.fill_(0.5)
    prediction = predict(detector, images[:1])[0]
    assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)
    assert prediction["mask_scores"].argsort(descending=True).tolist() != list(range(len(prediction["scores"])))


def test_detections_are_empty_above_all_scores(build: Build, images: list[Tensor]) -> None:
    detector = build("detector.score_threshold=1.0").eval()
    with torch.no_grad():
        prediction = detector(images)[0]
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 97, 131), "mask_scores": (0,),
    }  # fmt: skip


def test_a_step_of_training_reaches_every_branch(build: Build, images: list[Tensor], targets: Targets) -> None:
    detector = build()
    before = {name: value.detach().clone() for name, value in detector.head.named_parameters()}
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    sum(detector(images, targets).values()).backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, value in detector.head.named_parameters() if (value != before[name]).any()}
    assert changed == {"fcos", "mask_head", "mask_predictor", "mask_scorer"}
    build().load_state_dict(detector.state_dict())


def test_class_layers_are_those_that_depend_on_the_classes(build: Build) -> None:
    detector = build()
    other = build_detector(detector.preset, num_classes=4)
    tensors, other_tensors = detector.head.state_dict(), other.head.state_dict()
    differing = {name for name in tensors if tensors[name].shape != other_tensors[name].shape}
    assert differing == {name for name in tensors if name.startswith(detector.head.class_layers)}


def test_the_cost_covers_every_parameter_of_the_head(build: Build) -> None:
    detector = build("detector.max_detections=50")
    costs = model_cost(detector, (240, 320))
    assert [(cost.name, cost.workload) for cost in costs[-2:]] == [
        ("mask head", "50 regions"),
        ("mask scoring", "50 regions"),
    ]
    assert sum(cost.parameters for cost in costs) == sum(value.numel() for value in detector.parameters())
    convs = 3 * 14**2 * 9 * 16**2 + 14**2 * 9 * 16 * 16 + 14**2 * 9 * 2  # four convolutions and the attention
    assert costs[-2].multiply_adds == 50 * (convs + 28**2 * 16 * 16 + 28**2 * 16 * 3)
