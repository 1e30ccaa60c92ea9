"""Grad-CAM of a fixed detection: equal to plain autograd, for every kind of detector, at one level for all."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from afictl.data import Objects
from afictl.data.transforms import move_boxes, resize_for
from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.presets import load_preset
from afictl.visualization import file_pictures, gradcam_figures
from afictl.visualization.gradcam import HeatMap, compute_gradcam
from afictl.visualization.named_models import NamedDetectors
from tests.helpers.slow_cases import others_slow

CLASSES = ("cell", "platelet", "<b>red</b>")
BOX = torch.tensor([10.0, 8.0, 60.0, 50.0])


def build(preset, size=96, seed=0, threshold=0.0):
    torch.manual_seed(seed)
    settings = [f"input.test_size={size}", f"input.min_sizes=[{size}]", f"detector.score_threshold={threshold}"]
    return build_detector(load_preset(preset, settings), num_classes=3, interpolator="nearest").eval()


def named(**detectors):
    loaded = {name: SimpleNamespace(detector=detector, classes=CLASSES) for name, detector in detectors.items()}
    return NamedDetectors(loaded, CLASSES)


@pytest.fixture(scope="module")
def faster():
    return build("faster-rcnn-r18-fpn-tiny")


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 255, (3, 80, 120), dtype=np.uint8))


@pytest.fixture
def pictures(tmp_path, image):
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "cells.png")
    return file_pictures([tmp_path])


def autograd_gradcam(detector, image, level, score):
    """Grad-CAM by autograd; ``score(maps, resized, box)`` is differentiable."""
    resized = resize_for(detector.input, image)
    box = move_boxes(BOX[None], image.shape[1:], resized.shape[1:])[0]
    maps = detector.pyramid([resized])
    (gradient,) = torch.autograd.grad(score(maps, resized, box), maps[level])
    heat = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * maps[level]).sum(dim=1, keepdim=True))
    padded = detector.batch([resized]).tensor.shape[-2:]
    resized_map = F.interpolate(heat, size=padded, mode="bilinear", align_corners=False)
    return resized_map[0, 0, : resized.shape[1], : resized.shape[2]].detach()


def test_two_stage_detectors_equal_plain_autograd(faster, image):
    def score(maps, resized, box):
        heads = faster.head.roi_heads
        pooled = heads.box_roi_pool(maps, [box[None]], [tuple(resized.shape[1:])])
        return heads.box_predictor(heads.box_head(pooled))[0][0, 2]

    level, heat = compute_gradcam(faster, image, BOX, 2)
    assert level == "p2"
    expected = autograd_gradcam(faster, image, level, score)
    assert expected.max() > 0
    torch.testing.assert_close(heat.values, expected)
    resized = resize_for(faster.input, image)
    box = move_boxes(BOX[None], image.shape[1:], resized.shape[1:])[0]
    assert heat.logit == pytest.approx(score(faster.pyramid([resized]), resized, box).item(), abs=1e-5)


def test_points_near_the_centre_equal_plain_autograd(image):
    fcos = build("fcos-r18-fpn-tiny")
    level, heat = compute_gradcam(fcos, image, BOX, 2)

    def score(maps, resized, box):
        stride = fcos.neck.strides[level]
        logits = fcos.head.class_logits(fcos.head.class_tower(maps[level]))[0, 1]
        centre = (box[:2] + box[2:]) / 2
        near = [
            logits[i, j]
            for i in range(logits.shape[0])
            for j in range(logits.shape[1])
            for point in [torch.tensor([j * stride + stride // 2, i * stride + stride // 2])]
            if (point > box[:2]).all() and (point < box[2:]).all() and ((point - centre).abs() < 1.5 * stride).all()
        ]
        assert near
        return torch.stack(near).mean()

    torch.testing.assert_close(heat.values, autograd_gradcam(fcos, image, level, score))


PRESETS = [
    "mask-rcnn-r18-fpn-tiny",
    "mask-rcnn-r18-pafpn-tiny",
    "faster-rcnn-r18-bifpn-tiny",
    "cascade-rcnn-r18-fpn-tiny",
    "retinanet-r18-fpn-tiny",
    "fcos-r18-fpn-tiny",
    "centermask-r18-bifpn-tiny",
    "torchvision:fasterrcnn_resnet50_fpn",
    "torchvision:retinanet_resnet50_fpn",
    "torchvision:fcos_resnet50_fpn",
]


@pytest.mark.parametrize("preset", others_slow(PRESETS, PRESETS[:-2]))
def test_every_kind_of_detector_is_explained(preset, image, pictures):
    detector = build(preset)
    level, heat = compute_gradcam(detector, image, BOX, 1)
    assert level in detector.neck.strides
    assert heat.values.shape == resize_for(detector.input, image).shape[1:]
    assert heat.values.isfinite().all()
    assert heat.values.min() >= 0
    (figure,) = gradcam_figures(named(run=detector), pictures, threshold=0.0)
    assert [panel.title for panel in figure.panels][1:] == ["run"]


@pytest.mark.parametrize("preset", ["fcos-r18-fpn-tiny", "retinanet-r18-fpn-tiny", "faster-rcnn-r18-fpn-tiny"])
@pytest.mark.parametrize("box", [[5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 120.0, 80.0], [118.0, 78.0, 121.0, 82.0]])
def test_maps_of_a_box_without_a_point_or_anchor_are_finite(preset, box, image):
    _, heat = compute_gradcam(build(preset), image, torch.tensor(box), 1)
    assert heat.values.isfinite().all()
    assert np.isfinite(heat.logit)


def test_all_detectors_explain_one_detection_at_one_level(faster, pictures):
    other = build("faster-rcnn-r18-fpn-tiny", seed=3)
    (figure,) = gradcam_figures(named(a=faster, b=other), pictures, threshold=0.0)
    detection = named(a=faster).detect("a", pictures[0].read(), 0.0)
    label = CLASSES[int(detection["labels"][0]) - 1]
    assert figure.panels[0].title == f"{label} {float(detection['scores'][0]):.2f}"
    level = compute_gradcam(faster, pictures[0].read(), detection["boxes"][0], int(detection["labels"][0]))[0]
    assert figure.title == f"cells.png: Grad-CAM of '{label}' at {level}"
    assert [panel.title for panel in figure.panels[1:]] == ["a", "b"]


def with_object(picture, box):
    """The picture with a small object, one at ``box`` and a crowd, which is not explained."""
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0], box, [0.0, 0.0, 120.0, 80.0]])
    crowd = torch.tensor([False, False, True])
    objects = Objects(boxes, torch.tensor([1, 3, 2]), crowd, boxes[:, 0], torch.arange(3), [None] * 3)
    return replace(picture, size_hw=(80, 120), read_objects=lambda: objects)


def test_without_a_detection_the_largest_object_is_explained(faster, pictures):
    picture = with_object(pictures[0], BOX.tolist())
    (figure,) = gradcam_figures(named(a=faster), [picture], threshold=1.0)
    assert figure.title == "cells.png: Grad-CAM of '<b>red</b>' at p2"
    assert (figure.panels[0].title, figure.panels[0].note) == ("<b>red</b>", "from the ground truth")


def test_a_zero_map_is_reported(faster, pictures, monkeypatch):
    heats = iter([torch.zeros(8, 8), torch.eye(8)])
    monkeypatch.setattr("afictl.visualization.gradcam.compute_gradcam", lambda *_: ("p2", HeatMap(next(heats), 1.5)))
    (figure,) = gradcam_figures(named(a=faster, b=faster), [with_object(pictures[0], BOX.tolist())], threshold=1.0)
    assert [panel.note for panel in figure.panels[1:]] == ["logit 1.50, zero everywhere", "logit 1.50"]


def test_images_without_a_detection_are_left_out(faster, pictures):
    assert list(gradcam_figures(named(a=faster), pictures, threshold=1.0)) == []


def test_detectors_that_cannot_be_compared_are_errors(faster, pictures):
    large = build("faster-rcnn-r18-fpn-tiny", size=240)
    whole = with_object(pictures[0], [0.0, 0.0, 120.0, 80.0])
    with pytest.raises(UserError, match=r"large: .*p4.*p3"):
        list(gradcam_figures(named(a=faster, large=large), [whole], threshold=1.0))
    detectors = named(a=faster)
    other_classes = SimpleNamespace(detector=faster, classes=("x", "y", "z"))
    with pytest.raises(UserError, match=r"^b: .* class '"):
        list(
            gradcam_figures(
                NamedDetectors({**detectors.detectors, "b": other_classes}, CLASSES), pictures, threshold=0.0
            )
        )


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["mask", "cascade", "retinanet"])
def test_logits_of_detectron2_models_are_those_of_the_model(kind, image, tmp_path):
    """The logit of the class for the region or, in RetinaNet, the mean over its anchors."""
    pytest.importorskip("detectron2")
    from detectron2.structures import Boxes, pairwise_iou

    from tests.helpers.detectron2_presets import build_small

    detector = build_small(tmp_path, kind)
    level, heat = compute_gradcam(detector, image, BOX, 2)
    assert level in detector.neck.strides
    assert heat.values.isfinite().all()
    resized = resize_for(detector.input, image)
    box = Boxes(move_boxes(BOX[None], image.shape[1:], resized.shape[1:]))
    maps, model = detector.pyramid([resized]), detector.model
    if kind == "retinanet":
        index = model.head_in_features.index(level)
        logits = model.head([maps[name] for name in model.head_in_features])[0][index]
        anchors = model.anchor_generator([maps[name] for name in model.head_in_features])[index]
        flat = logits.view(1, -1, 3, *logits.shape[-2:]).permute(0, 3, 4, 1, 2).reshape(-1, 3)
        expected = flat[pairwise_iou(anchors, box)[:, 0] >= 0.5, 1].mean()
    else:
        heads = model.roi_heads
        pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], [box])
        box_heads, predictors = (
            (heads.box_head, heads.box_predictor) if kind == "cascade" else ([heads.box_head], [heads.box_predictor])
        )
        pairs = zip(box_heads, predictors, strict=True)
        expected = torch.stack([predictor(head(pooled))[0][0, 1] for head, predictor in pairs]).mean()
    assert heat.logit == pytest.approx(expected.item(), rel=1e-4)
