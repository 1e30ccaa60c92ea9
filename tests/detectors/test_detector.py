import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from afictl.detectors import Detector, build_detector
from afictl.errors import UserError
from afictl.interpolators import build_interpolator
from afictl.presets import load_preset
from tests.helpers.narrow_presets import narrow_preset
from tests.helpers.targets import no_object

Build = Callable[..., Detector]
Targets = list[dict[str, Tensor]]

BOX_LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


@pytest.mark.parametrize(("kind", "names"), [("faster-rcnn", BOX_LOSSES), ("mask-rcnn", {*BOX_LOSSES, "loss_mask"})])
@pytest.mark.parametrize("objects", ["objects", "no object"])
def test_training_gives_finite_losses_and_a_gradient_to_everything(
    build: Build, images: list[Tensor], targets: Targets, kind: str, names: set[str], objects: str
) -> None:
    detector = build(kind)
    losses = detector(images, targets if objects == "objects" else [no_object(97, 131), no_object(120, 75)])
    assert set(losses) == names
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in detector.parameters())


@pytest.mark.parametrize("kind", ["faster-rcnn", "mask-rcnn"])
def test_detections_follow_torchvisions_convention(build: Build, images: list[Tensor], kind: str) -> None:
    detector = build(kind).eval()
    with torch.no_grad():
        predictions = detector(images)
    for image, prediction in zip(images, predictions, strict=True):
        count, (height, width) = len(prediction["labels"]), image.shape[-2:]
        assert set(prediction) == {"boxes", "labels", "scores"} | ({"masks"} if kind == "mask-rcnn" else set())
        assert 0 < count <= 100
        assert prediction["boxes"].shape == (count, 4)
        assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)
        assert set(prediction["labels"].tolist()) <= {1, 2, 3}
        assert (prediction["boxes"][:, :2] >= 0).all()
        assert (prediction["boxes"][:, 2:] <= torch.tensor([width, height])).all()
        if kind == "mask-rcnn":
            assert prediction["masks"].dtype == torch.bool
            assert prediction["masks"].shape == (count, height, width)


def test_detect_returns_masks_on_the_grids_of_boxes(build: Build, images: list[Tensor]) -> None:
    detector = build().eval()
    with torch.no_grad():
        pasted, on_grids = detector(images), detector.detect(images)
    for pasted_masks, detections in zip(pasted, on_grids, strict=True):
        assert torch.equal(pasted_masks["boxes"], detections["boxes"])
        assert detections["mask_probs"].shape == (len(pasted_masks["boxes"]), 28, 28)
        assert "masks" not in detections


def test_detections_are_empty_above_all_scores(build: Build, images: list[Tensor]) -> None:
    detector = build("mask-rcnn", "detector.score_threshold=1.0").eval()
    with torch.no_grad():
        prediction = detector(images)[0]
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 97, 131),
    }  # fmt: skip


def test_detections_are_empty_without_proposals(build: Build, images: list[Tensor]) -> None:
    detector = build().eval()
    with torch.no_grad():
        detector.head.rpn.head.bbox_pred.bias.fill_(torch.nan)
        assert len(detector(images)[1]["boxes"]) == 0


def test_batch_normalises_then_pads_with_zeros(build: Build, images: list[Tensor]) -> None:
    detector = build()
    tensor, sizes = detector.batch(images)
    assert tensor.shape == (2, 3, 128, 160)
    assert sizes == [(97, 131), (120, 75)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (detector.input.mean, detector.input.std))
    torch.testing.assert_close(tensor[1, :, :120, :75], (images[1] - mean) / std)
    assert not tensor[1, :, 120:].any()
    assert not tensor[1, :, :, 75:].any()


def test_pyramid_has_the_necks_levels_and_strides(build: Build, images: list[Tensor]) -> None:
    with torch.no_grad():
        pyramid = build().pyramid(images)
    assert {name: tuple(value.shape) for name, value in pyramid.items()} == {
        f"p{i}": (2, 16, 128 // 2**i, -(-160 // 2**i)) for i in range(2, 7)
    }


def test_an_image_alone_and_in_a_batch_of_its_size_gives_the_same(build: Build, images: list[Tensor]) -> None:
    detector = build().eval()
    with torch.no_grad():
        alone, pair = detector(images[:1])[0], detector([images[0].flip(2), images[0]])[1]
    torch.testing.assert_close(alone["boxes"], pair["boxes"], atol=1e-3, rtol=1e-4)


def test_under_autocast_losses_are_float32_and_boxes_exact(
    build: Build, images: list[Tensor], targets: Targets
) -> None:
    detector = build()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images[:1], targets[:1])
        detection = detector.eval().detect(images[:1])[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert detection["boxes"].dtype == torch.float32
    assert not torch.equal(detection["boxes"], detection["boxes"].bfloat16().float())


def test_other_anchor_sizes_take_the_same_weights(build: Build) -> None:
    detector = build()
    half = build("mask-rcnn", "detector.anchor_sizes=[8, 16, 32, 64, 128]")
    half.load_state_dict(detector.state_dict())
    assert half.head.rpn.anchor_generator.sizes == ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))


WRONG_TARGETS = [
    ({"boxes": torch.tensor([[10.0, 10, 50, 40], [60, 50, 60, 90]])}, r"box \[60.0, 50.0, 60.0, 90.0\]"),
    ({"boxes": torch.tensor([[10.0, 40, 50, 10], [60, 50, 70, 90]])}, r"box \[10.0, 40.0, 50.0, 10.0\]"),
    ({"boxes": torch.full((2, 4), float("nan"))}, "box "),
    ({"labels": torch.tensor([1, 4])}, "label 4 "),
    ({"labels": torch.tensor([0, 1])}, "label 0 "),
    ({"labels": torch.tensor([1.0, 2])}, "boxes .*int64.*float32"),
    ({"boxes": torch.zeros(2, 5)}, r"boxes .*\(2, 5\).*\(2, 4\)"),
    ({"masks": torch.zeros(2, 9, 9)}, r"masks .*\(2, 9, 9\).*\(2, 97, 131\)"),
]


@pytest.mark.parametrize(("change", "fact"), WRONG_TARGETS)
def test_a_wrong_target_is_named_with_its_value(
    build: Build, images: list[Tensor], targets: Targets, change: dict[str, Tensor], fact: str
) -> None:
    with pytest.raises(ValueError, match=f"target 0: {fact}"):
        build()(images, [{**targets[0], **change}, targets[1]])


def test_the_index_of_a_wrong_target_counts_images(build: Build, images: list[Tensor], targets: Targets) -> None:
    wrong = {**targets[0], "labels": torch.tensor([2, 7])}
    with pytest.raises(ValueError, match="target 1: label 7"):
        build()(images[::-1], [targets[1], wrong])


def test_missing_targets_are_refused(build: Build, images: list[Tensor], targets: Targets) -> None:
    detector = build()
    with pytest.raises(ValueError, match=r"2 images.* none"):
        detector(images)
    with pytest.raises(ValueError, match=r"2 images.* 1"):
        detector(images, targets[:1])
    targets[1].pop("masks")
    with pytest.raises(ValueError, match=r"target 1 .*'masks'"):
        detector(images, targets)


@pytest.mark.parametrize("image", [torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32)])
def test_a_wrong_image_is_named(build: Build, image: Tensor) -> None:
    with pytest.raises(ValueError, match="image 1"):
        build().eval()([torch.zeros(3, 32, 32), image])


def test_detect_requires_eval_mode(build: Build, images: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"eval\(\)"):
        build().detect(images)


def test_segment_requires_a_detector_with_masks(build: Build, images: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="faster-rcnn"):
        build("faster-rcnn").eval().segment(images, [])


def test_build_names_the_interpolator_that_is_used() -> None:
    name = "faster-rcnn-r18-fpn-tiny"
    assert build_detector(name).preset.interpolator.kind == "afi"
    assert build_detector(name, interpolator="nearest").preset.interpolator.kind == "nearest"
    module = build_interpolator("afi", 64, blocks=1)
    detector = build_detector(load_preset(name), 5, module)
    assert detector.neck.interpolator is module
    assert detector.preset.interpolator.options["blocks"] == 1
    assert detector.num_classes == 5
    # so that the preset alone builds the same again
    build_detector(detector.preset, 5).load_state_dict(detector.state_dict())


def test_options_of_the_preset_are_used_for_its_kind_only() -> None:
    preset = load_preset("faster-rcnn-r18-fpn-tiny", ["interpolator.options={blocks: 1}"])
    assert len(build_detector(preset, interpolator="afi").neck.interpolator.group) == 1
    assert build_detector(preset, interpolator="bilinear").preset.interpolator.options == {}


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("faster-rcnn-r18-fpn-tin",), "'faster-rcnn-r18-fpn-tiny'"),
        (("faster-rcnn-r18-fpn-tiny", 0), "num_classes=0"),
        (("faster-rcnn-r18-fpn-tiny", 3, "neerest"), "'nearest'"),
        (("faster-rcnn-r18-fpn-tiny", 3, build_interpolator("nearest", 32)), "32 channels"),
    ],
)
def test_wrong_arguments_of_build_are_refused(arguments: tuple[object, ...], fact: str) -> None:
    with pytest.raises(UserError, match=fact):
        build_detector(*arguments)


def test_a_preset_with_masks_needs_a_head_with_masks():
    parts = build_detector(load_preset("retinanet-r18-fpn-tiny"), 2, "nearest")
    with pytest.raises(UserError, match=r"mask-rcnn-r18-fpn-tiny: detector\.kind: .*mask-rcnn .*RetinaNetHead none"):
        Detector(load_preset("mask-rcnn-r18-fpn-tiny"), parts.backbone, parts.neck, parts.head, 2)


def test_options_of_another_kind_are_left_out_with_a_warning() -> None:
    preset = narrow_preset("faster-rcnn-r18-fpn-tiny").with_interpolator("dysample", {"groups": 2})
    with pytest.warns(UserWarning, match=r"interpolator\.options of .* those of dysample; carafe has its defaults"):
        detector = build_detector(preset, 3, "carafe")
    assert (detector.preset.interpolator.kind, detector.preset.interpolator.options) == ("carafe", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_detector(preset, 3, "dysample").preset.interpolator.options == {"groups": 2}
