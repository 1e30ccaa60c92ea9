"""Test-time augmentation: sizes of views, merging of boxes and masks, and one view against plain detection."""

import pytest
import torch
from torch import nn

from afictl.data.transforms import resize_for
from afictl.detectors import build_detector, to_original
from afictl.errors import UserError
from afictl.evaluation.tta import TestTimeAugmentation as Augmentation
from afictl.evaluation.tta import detect_augmented
from afictl.presets import load_preset
from tests.helpers.narrow_presets import narrow_preset

SMALL = ("detector.max_detections=20", "input.test_size=96", "input.max_size=160")
FEW = "detector.max_detections=4"  # bfloat16 is slow on many processors
PRESETS = [
    "faster-rcnn-r18-fpn-tiny",
    "mask-rcnn-r18-pafpn-tiny",
    "cascade-rcnn-r18-fpn-tiny",
    "cascade-rcnn-swin-t-bifpn-tiny",
    "retinanet-r18-fpn-tiny",
    "fcos-r18-fpn-tiny",
    "centermask-r18-bifpn-tiny",
]
TORCHVISION_MODELS = [
    "torchvision:fasterrcnn_resnet50_fpn",
    "torchvision:maskrcnn_resnet50_fpn",
    "torchvision:retinanet_resnet50_fpn",
    "torchvision:fcos_resnet50_fpn",
]
TORCHVISION_MASKS = pytest.param(TORCHVISION_MODELS[1], marks=pytest.mark.slow)


@torch.no_grad()
def build(name, *overrides):
    """An untrained detector of three classes with a wide range of scores, so that each threshold has an effect."""
    torch.manual_seed(0)
    settings = (*SMALL, *overrides)
    preset = load_preset(name, settings) if ":" in name else narrow_preset(name, *settings)
    detector = build_detector(preset, 3, "nearest")
    for key, value in detector.named_parameters():
        if key.startswith(detector.class_layers) and "rcnn_resnet50" not in name:  # torchvision's R-CNNs start so
            value.mul_(0 if key.endswith("bias") else 300 if "mask_predictor" in key else 30)
        if key.endswith("box_distances.bias"):
            value.fill_(1)  # FCOS: some boxes on every map, be it of a single point
    return detector.eval()


def photo(height=120, width=150):
    """Coarse patches: on noise, detections change with the last bit."""
    patches = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0)) * 255
    return nn.functional.interpolate(patches, (height, width), mode="bicubic")[0].clamp(0, 255).byte()


@torch.no_grad()
@pytest.mark.parametrize("name", [*PRESETS, *TORCHVISION_MODELS])
def test_one_view_of_the_test_size_equals_plain_detection(name):
    detector, image = build(name), photo()
    resized = resize_for(detector.input, image)
    expected = to_original(detector.detect([resized])[0], tuple(resized.shape[1:]), (120, 150))
    detection = detect_augmented(detector, image, Augmentation((96,), 160, flip=False))
    assert detection.keys() == expected.keys()
    assert ("mask_probs" in detection) == detector.has_masks
    assert len(detection["boxes"]) >= 10
    for key, value in expected.items():
        torch.testing.assert_close(detection[key], value, rtol=0, atol=1e-3 if key == "boxes" else 1e-4)
    assert ("mask_scores" in detection) == name.startswith("centermask")


@torch.no_grad()
@pytest.mark.parametrize("name", ["mask-rcnn-r18-pafpn-tiny", "centermask-r18-bifpn-tiny", TORCHVISION_MASKS])
def test_flips_make_the_detections_of_a_mirrored_image_mirrored(name):
    detector, image = build(name), photo(96, 128)  # of the view's size: resizing rounds to another side in a mirror
    augmentation = Augmentation((96,), 160)
    expected, detection = (detect_augmented(detector, view, augmentation) for view in (image, image.flip(-1)))
    x1, y1, x2, y2 = expected["boxes"].unbind(1)
    mirrored = {**expected, "boxes": torch.stack((128 - x2, y1, 128 - x1, y2), dim=1)}
    if "mask_probs" in mirrored:
        mirrored["mask_probs"] = mirrored["mask_probs"].flip(-1)
        assert (mirrored["mask_probs"] - expected["mask_probs"]).abs().max() > 1e-3
    assert len(detection["boxes"]) >= 10
    for key, value in mirrored.items():
        torch.testing.assert_close(detection[key], value, rtol=0, atol=1e-3 if key == "boxes" else 1e-4)


def ramp(start, stop):
    """Probabilities of a mask that grow to the right."""
    return torch.linspace(start, stop, 4).expand(4, 4)


SCORES = {
    # Of the object at (10, 10, 30, 30) in each view of the image below.
    ((40, 80), False): 0.5,
    ((40, 80), True): 0.9,
    ((80, 160), False): 0.7,
    ((80, 160), True): 0.6,
}


class Scripted:
    """Scripted detections in an image of 40 x 80 that is dark on its left.

    An object with a different score in each view, around it a box of another class, and an object in a single view.
    """

    def __init__(self):
        self.detect_views, self.segment_views = [], []

    def views(self, images):
        for image in images:
            flip = bool(image[..., 0].mean() > image[..., -1].mean())
            yield tuple(image.shape[1:]), flip

    def detect(self, images, masks, features):
        assert not masks
        detections = []
        for size, flip in self.views(images):
            self.detect_views.append((size, flip))
            boxes = [[10.0, 10, 30, 30], [11.0, 10, 31, 30]]
            scores = [SCORES[size, flip], 0.3 if flip else 0.4]
            labels = [2, 1]
            if (size, flip) == ((80, 160), True):
                boxes, scores, labels = [*boxes, [50.0, 0, 79, 20]], [*scores, 0.45], [*labels, 2]
            in_view = torch.tensor(boxes) * size[0] / 40
            if flip:
                in_view[:, [0, 2]] = size[1] - in_view[:, [2, 0]]
            detections.append({"boxes": in_view, "labels": torch.tensor(labels), "scores": torch.tensor(scores)})
        return detections

    def segment(self, images, detections, features):
        with_masks = []
        for (size, flip), detection in zip(self.views(images), detections, strict=True):
            self.segment_views.append((size, flip, detection))
            mask = ramp(0, 1) * (1.0 if size[0] == 40 else 0.5)
            masks = (mask.flip(-1) if flip else mask).expand(len(detection["boxes"]), 4, 4)
            with_masks.append({**detection, "mask_probs": masks, "mask_scores": detection["scores"] * size[0] / 80})
        return with_masks


@pytest.fixture
def scripted(monkeypatch):
    def make(*overrides):
        detector, script = build("mask-rcnn-r18-fpn-tiny", *overrides), Scripted()
        monkeypatch.setattr(detector, "detect", script.detect)
        monkeypatch.setattr(detector, "segment", script.segment)
        return detector, script

    return make


def half_dark():
    image = torch.full((3, 40, 80), 200, dtype=torch.uint8)
    image[:, :, :40] = 20
    return image


def test_boxes_of_all_views_are_merged_by_nms_per_class(scripted):
    detector, script = scripted()
    detection = detect_augmented(detector, half_dark(), Augmentation((40, 80)))
    assert script.detect_views == list(SCORES)
    torch.testing.assert_close(
        detection["boxes"], torch.tensor([[10.0, 10, 30, 30], [50, 0, 79, 20], [11, 10, 31, 30]])
    )
    assert detection["labels"].tolist() == [2, 2, 1]
    torch.testing.assert_close(detection["scores"], torch.tensor([0.9, 0.45, 0.4]))


def test_masks_of_merged_boxes_are_averaged_over_views(scripted):
    detector, script = scripted()
    detection = detect_augmented(detector, half_dark(), Augmentation((40, 80)))
    assert [(size, flip) for size, flip, _ in script.segment_views] == list(SCORES)
    for size, flip, view in script.segment_views:
        expected = detection["boxes"] * size[0] / 40
        if flip:
            expected = torch.stack(
                (size[1] - expected[:, 2], expected[:, 1], size[1] - expected[:, 0], expected[:, 3]), 1
            )
        torch.testing.assert_close(view["boxes"], expected)
        assert torch.equal(view["labels"], detection["labels"])
    torch.testing.assert_close(detection["mask_probs"], (ramp(0, 1) * 0.75).expand(3, 4, 4))
    torch.testing.assert_close(detection["mask_scores"], detection["scores"] * 0.75)


def test_merging_uses_the_settings_of_the_detector(scripted):
    few, _ = scripted("detector.max_detections=2")
    assert detect_augmented(few, half_dark(), Augmentation((40, 80)))["scores"].tolist() == pytest.approx([0.9, 0.45])
    lenient, _ = scripted("detector.nms_threshold=1.0")
    assert len(detect_augmented(lenient, half_dark(), Augmentation((40, 80)))["boxes"]) == 2 * 4 + 1


def test_detections_of_a_single_view_are_not_suppressed_again(monkeypatch):
    """Dense heads apply NMS before clipping: two boxes that differ only beyond the border both stay."""
    detector = build("fcos-r18-fpn-tiny")
    detection = {
        "boxes": torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 40]]),
        "labels": torch.tensor([1, 1]),
        "scores": torch.tensor([0.9, 0.8]),
    }
    monkeypatch.setattr(detector, "detect", lambda images, masks, features: [detection] * len(images))
    assert len(detect_augmented(detector, half_dark(), Augmentation((40,), flip=False))["boxes"]) == 2
    assert len(detect_augmented(detector, half_dark(), Augmentation((40, 44), flip=False))["boxes"]) == 1


@pytest.mark.parametrize(("memory", "pyramids"), [(8e9, 2), (0, 4)])
def test_masks_reuse_the_pyramids_that_fit_into_memory(monkeypatch, memory, pyramids):
    detector = build("mask-rcnn-r18-fpn-tiny")
    expected = detect_augmented(detector, photo(), Augmentation((96, 120)))
    calls = []
    monkeypatch.setattr("afictl.evaluation.tta.device_memory", lambda device: memory)
    detector.neck.register_forward_hook(lambda *_: calls.append(1))
    detection = detect_augmented(detector, photo(), Augmentation((96, 120)))
    assert len(calls) == pyramids
    assert all(torch.equal(detection[name], expected[name]) for name in ("boxes", "scores", "mask_probs"))


def test_without_flips_no_view_is_mirrored(scripted):
    detector, script = scripted()
    detect_augmented(detector, half_dark(), Augmentation((40, 80), flip=False))
    assert script.detect_views == [((40, 80), False), ((80, 160), False)]


@pytest.mark.parametrize(
    ("augmentation", "size_hw", "views"),
    [
        (Augmentation(), (480, 640), [(s, round(s * 4 / 3)) for s in range(400, 1201, 100)]),
        (Augmentation((400, 800)), (640, 480), [(533, 400), (1067, 800)]),
        (Augmentation((400, 800, 1200)), (100, 1000), [(400, 4000)]),  # all reach the largest long side
        (Augmentation((300, 300, 200), 300), (100, 100), [(300, 300), (200, 200)]),
        (Augmentation((8,)), (1, 5000), [(1, 4000)]),
    ],
)
def test_sizes_of_the_views(augmentation, size_hw, views):
    assert augmentation.sizes(size_hw) == views


@pytest.mark.parametrize("sides", [(7,), (0,), (-400,), (800, 4001), (10**9,)])
def test_sizes_out_of_range_are_refused(sides):
    with pytest.raises(UserError, match=rf" {sides[-1]} .*8 to 4000"):
        Augmentation(sides)


def test_no_sizes_are_refused():
    with pytest.raises(UserError, match="--tta-sizes"):
        Augmentation(())


def test_a_module_that_is_no_detector_is_refused():
    with pytest.raises(UserError, match="Linear"):
        detect_augmented(nn.Linear(1, 1), photo(), Augmentation())


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 90), (70, 2)])
@pytest.mark.parametrize("name", PRESETS)
def test_tiny_images_and_views_have_detections_inside_the_image(name, size_hw):
    detection = detect_augmented(build(name), photo(*size_hw), Augmentation((8, 33), 90))
    assert len(detection["boxes"]) > 0
    assert (detection["boxes"][:, 2:] <= torch.tensor([size_hw[1], size_hw[0]])).all()
    assert all(value.isfinite().all() for value in detection.values())


@pytest.mark.parametrize("name", ["mask-rcnn-r18-fpn-tiny", "centermask-r18-bifpn-tiny", TORCHVISION_MASKS])
def test_no_detections_have_masks_that_can_be_pasted(name):
    detector = build(name, "detector.score_threshold=1.0")
    detection = detect_augmented(detector, photo(), Augmentation((64, 96)))
    assert {len(value) for value in detection.values()} == {0}
    assert detection["mask_probs"].shape == (0, 28, 28)
    assert detector.paste_masks(detection["mask_probs"], detection["boxes"], (120, 150)).shape == (0, 120, 150)


def test_under_autocast_detections_are_float32():
    with torch.autocast("cpu", torch.bfloat16):
        detection = detect_augmented(build("centermask-r18-bifpn-tiny", FEW), photo(48, 60), Augmentation((32, 48)))
    assert {detection[name].dtype for name in ("boxes", "scores", "mask_probs", "mask_scores")} == {torch.float32}


def test_a_detector_in_train_mode_is_refused():
    with pytest.raises(ValueError, match="eval mode"):
        detect_augmented(build("fcos-r18-fpn-tiny").train(), photo(), Augmentation((64,)))
