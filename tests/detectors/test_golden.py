"""Mask R-CNN R50-FPN against detectron2's own, with the same weights and image."""

import re

import pytest
import torch
from torch import Tensor

from afictl.detectors import Detector, build_detector
from afictl.presets import load_preset
from tests.golden_files import H_FULL, apply_rule_h, assert_golden, golden_image, read_golden
from tests.reference_names import fpn_key

FILE = "mask_rcnn_r50_fpn"
PREFIX = "H.mask_fpn_d2."
# detectron2's MSRA weights: BGR 0..255, mean subtracted, stride in the bottlenecks' first convolution.
MSRA = (
    "interpolator.kind=nearest",
    "backbone.stride_in_1x1=true",
    f"input.mean={[value / 255 for value in (123.675, 116.28, 103.53)]}",
    f"input.std={[1 / 255] * 3}",
)
PARTS = {
    "head.rpn.head.conv.0.0": "proposal_generator.rpn_head.conv",
    "head.rpn.head.cls_logits": "proposal_generator.rpn_head.objectness_logits",
    "head.rpn.head.bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
    "head.roi_heads.box_head.fc6": "roi_heads.box_head.fc1",
    "head.roi_heads.box_head.fc7": "roi_heads.box_head.fc2",
    "head.roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "head.roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "head.roi_heads.mask_predictor.deconv": "roi_heads.mask_head.deconv",
    "head.roi_heads.mask_predictor.logits": "roi_heads.mask_head.predictor",
    **{f"head.roi_heads.mask_head.{i}.0": f"roi_heads.mask_head.mask_fcn{i + 1}" for i in range(4)},
}


def detectron2_key(name: str) -> str:
    """Our tensor name -> detectron2's."""
    if name.startswith("neck."):
        return f"backbone.{fpn_key(name.removeprefix('neck.'))}"
    if name.startswith("backbone.net."):
        return _backbone_key(name.removeprefix("backbone.net."))
    part, _, rest = name.rpartition(".")
    return f"{PARTS[part]}.{rest}"


def _backbone_key(name: str) -> str:
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return "backbone.bottom_up." + re.sub(r"bn(\d)\.", r"conv\1.norm.", name)


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = build_detector(load_preset("mask-rcnn-r50-fpn", MSRA)).eval()
    apply_rule_h(model, detectron2_key, "d2_mask_rcnn_R50_FPN_3x", H_FULL)
    state = model.state_dict()
    stem = state["backbone.net.conv1.weight"]
    stem.copy_(stem.flip(1))  # BGR -> RGB
    for name in ("weight", "bias"):
        rows = state[f"head.roi_heads.box_predictor.cls_score.{name}"]
        rows.copy_(rows.roll(1, 0))  # background: last -> first
    return model


@pytest.fixture(scope="module")
def image() -> Tensor:
    return golden_image(160, 192).flip(0).float() / 255


@pytest.fixture(scope="module")
def pyramid(detector: Detector, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return detector.pyramid([image])


def check(name: str, tensor: Tensor, **options: float) -> None:
    assert_golden(FILE, PREFIX + name, tensor, **options)


def test_backbone(detector: Detector, image: Tensor) -> None:
    with torch.no_grad():
        features = detector.backbone(detector.batch([image]).tensor)
    for name, value in features.items():
        value = value.double()
        sums = torch.stack((value.sum(), value.abs().sum(), value.square().sum()))
        torch.testing.assert_close(sums, read_golden(FILE, f"{PREFIX}bottom_up_sum.{name}").values, rtol=1e-6, atol=0)


def test_pyramid(pyramid: dict[str, Tensor]) -> None:
    assert list(pyramid) == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in pyramid.items():
        check(name, value)


def test_proposal_head(detector: Detector, pyramid: dict[str, Tensor]) -> None:
    with torch.no_grad():
        logits, deltas = detector.head.rpn.head(list(pyramid.values()))
    for name, logit, delta in zip(pyramid, logits, deltas, strict=True):
        check(f"rpn_logits.{name}", logit)
        check(f"rpn_deltas.{name}", delta)


def test_proposals(
    detector: Detector, image: Tensor, pyramid: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rpn, found = detector.head.rpn, []
    select = rpn.filter_proposals
    monkeypatch.setattr(rpn, "filter_proposals", lambda *inputs: found.append(select(*inputs)) or found[0])
    with torch.no_grad():
        detector.head(detector.batch([image]), pyramid)
    [(boxes,), (logits,)] = found[0]
    check("proposal_boxes50", boxes[:50])
    check("proposal_logits50", logits[:50], tolerance=1e-4)  # the best 50 lie close together
    # Further down logits are closer than float32 resolves: the order may change, the set may not.
    expected = read_golden(FILE, f"{PREFIX}proposal_boxes_all").values.view(-1, 4)
    assert boxes.shape == expected.shape
    distance = torch.cdist(boxes, expected, p=float("inf"))
    assert distance.min(dim=0).values.max() < 1e-3
    assert distance.min(dim=1).values.max() < 1e-3


def test_region_heads(detector: Detector, pyramid: dict[str, Tensor]) -> None:
    heads, boxes, sizes = (
        detector.head.roi_heads,
        [read_golden(FILE, "fixed_boxes").values.view(-1, 4)],
        [(160, 192)],
    )
    with torch.no_grad():
        pooled = heads.box_roi_pool(pyramid, boxes, sizes)
        classes, deltas = heads.classify(pyramid, boxes, sizes)
        masks = heads.mask_logits(pyramid, boxes, sizes)
    check("box_pooled_mean", pooled.mean(dim=(2, 3)))
    check("box_cls_logits", classes.roll(-1, 1))
    check("box_deltas", deltas)
    check("mask_logits", masks[:, ::8])
    check("mask_logits_sum_per_class", masks.double().sum(dim=(2, 3)))


def test_detections(detector: Detector, image: Tensor) -> None:
    with torch.no_grad():
        answer = detector([image])[0]
    check("inst_boxes", answer["boxes"])
    check("inst_scores", answer["scores"], tolerance=1e-4)  # softmax of logits near 20
    check("inst_classes", answer["labels"] - 1)
    assert answer["masks"].shape == (100, 160, 192)
