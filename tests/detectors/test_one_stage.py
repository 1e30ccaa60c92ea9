"""RetinaNet and FCOS as detectors."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from afictl.detectors import Detector, build_detector, model_cost
from tests.helpers.targets import no_object

Build = Callable[..., Detector]
Targets = list[dict[str, Tensor]]

KINDS = ("retinanet", "fcos")
LOSSES = {
    "retinanet": {"loss_classifier", "loss_box_reg"},
    "fcos": {"loss_classifier", "loss_box_reg", "loss_centerness"},
}
SCALES = {"retinanet": (), "fcos": ("detector.level_scales=true",)}
LOW_THRESHOLD = "detector.score_threshold=0.001"

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("objects", ["objects", "no object"])
def test_training_gives_finite_losses_and_a_gradient_to_everything(
    build: Build, images: list[Tensor], targets: Targets, kind: str, objects: str
) -> None:
    detector = build(kind, *SCALES[kind])
    empty = [no_object(97, 131), no_object(120, 75)]
    losses = detector(images, targets if objects == "objects" else empty)
    assert set(losses) == LOSSES[kind]
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    on_objects = [value.item() for name, value in losses.items() if name != "loss_classifier"]
    assert all(value > 0 for value in on_objects) == (objects == "objects")
    sum(losses.values()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in detector.parameters())


def test_detections_follow_torchvisions_convention(build: Build, images: list[Tensor], kind: str) -> None:
    detector = build(kind, LOW_THRESHOLD).eval()
    with torch.no_grad():
        predictions = detector(images)
    for image, prediction in zip(images, predictions, strict=True):
        count, (height, width) = len(prediction["labels"]), image.shape[-2:]
        assert set(prediction) == {"boxes", "labels", "scores"}
        assert 0 < count <= 100
        assert prediction["boxes"].shape == (count, 4)
        assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)
        assert set(prediction["labels"].tolist()) <= {1, 2, 3}
        assert (prediction["boxes"][:, :2] >= 0).all()
        assert (prediction["boxes"][:, 2:] <= torch.tensor([width, height])).all()
        assert (prediction["boxes"][:, 2:] > prediction["boxes"][:, :2]).all()


def test_detections_are_empty_above_all_scores(build: Build, images: list[Tensor], kind: str) -> None:
    detector = build(kind, "detector.score_threshold=1.0").eval()
    with torch.no_grad():
        prediction = detector(images)[1]
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,),
    }  # fmt: skip


def test_candidates_and_detections_are_limited(build: Build, images: list[Tensor], kind: str) -> None:
    with torch.no_grad():
        by_candidates = build(kind, LOW_THRESHOLD, "detector.candidates=2").eval()(images)
        by_detections = build(kind, LOW_THRESHOLD, "detector.max_detections=3").eval()(images)
    assert all(0 < len(prediction["boxes"]) <= 2 * 5 for prediction in by_candidates)
    assert [len(prediction["boxes"]) for prediction in by_detections] == [3, 3]


@pytest.mark.parametrize("size", [(33, 200), (1, 1), (64, 64)])
def test_images_of_any_size_train_and_detect(build: Build, kind: str, size: tuple[int, int]) -> None:
    detector = build(kind, LOW_THRESHOLD)
    target = {"boxes": torch.tensor([[0.0, 0, size[1], size[0]]]), "labels": torch.tensor([2])}
    losses = detector([torch.rand(3, *size)] * 2, [target] * 2)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        boxes = detector.eval()([torch.rand(3, *size)])[0]["boxes"]
    assert (boxes <= torch.tensor([size[1], size[0]]).repeat(2)).all()


def test_under_autocast_losses_are_float32_and_boxes_exact(
    build: Build, images: list[Tensor], targets: Targets, kind: str
) -> None:
    detector = build(kind, LOW_THRESHOLD, *SCALES[kind])
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images[:1], targets[:1])
        detection = detector.eval()(images[:1])[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert detection["boxes"].dtype == torch.float32
    assert not torch.equal(detection["boxes"], detection["boxes"].bfloat16().float())


def test_losses_are_float32_for_boxes_in_double_precision(
    build: Build, images: list[Tensor], targets: Targets, kind: str
) -> None:
    losses = build(kind)(images, [{**target, "boxes": target["boxes"].double()} for target in targets])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_a_wrong_target_is_named(build: Build, images: list[Tensor], targets: Targets, kind: str) -> None:
    with pytest.raises(ValueError, match="target 0: label 7"):
        build(kind)(images, [{**targets[0], "labels": torch.tensor([7, 1])}, targets[1]])


def test_only_class_layers_depend_on_the_number_of_classes(build: Build, kind: str) -> None:
    detector = build(kind)
    head, rebuilt = detector.head, build_detector(detector.preset, num_classes=5).head
    differing = {name for name, value in rebuilt.state_dict().items() if value.shape != head.state_dict()[name].shape}
    assert differing == {f"{prefix}{end}" for prefix in head.class_layers for end in ("weight", "bias")}


def test_cost_of_the_head_is_counted_in_full(build: Build, kind: str) -> None:
    detector = build(kind, *SCALES[kind])
    parts = {part.name: part for part in model_cost(detector, (64, 64))}
    assert list(parts)[3:] == ["class branch", "box branch"]
    assert sum(part.parameters for part in parts.values()) == sum(value.numel() for value in detector.parameters())
    positions = sum(math.ceil(64 / stride) ** 2 for stride in detector.neck.strides.values())
    outputs = detector.head.class_logits.out_channels
    assert parts["class branch"].multiply_adds == positions * 9 * 16 * (4 * 16 + outputs)
