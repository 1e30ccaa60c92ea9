"""R-CNNs against those of detectron2 and of the public AFI-GAN, with the same weights and image."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from afictl.detectors import Detector
from afictl.detectors.roi_heads import RegionHeads
from tests.helpers.golden_detectors import REFERENCES, Reference
from tests.helpers.golden_files import TOLERANCE, assert_golden, golden_names, read_golden


@pytest.fixture(scope="module", params=REFERENCES, ids=lambda reference: reference.file)
def reference(request: pytest.FixtureRequest) -> Reference:
    return request.param


@pytest.fixture(scope="module")
def detector(reference: Reference) -> Iterator[Detector]:
    return reference.build()


@pytest.fixture(scope="module")
def pyramid(reference: Reference, detector: Detector) -> dict[str, Tensor]:
    with torch.no_grad():
        return detector.pyramid([reference.image()])


def check(reference: Reference, name: str, tensor: Tensor, **options: float) -> None:
    assert_golden(reference.file, reference.prefix + name, tensor, **options)


def test_number_of_parameters_equals_the_reference(reference: Reference, detector: Detector) -> None:
    assert sum(value.numel() for value in detector.parameters()) == reference.parameters


def test_backbone_equals_the_reference(reference: Reference, detector: Detector) -> None:
    with torch.no_grad():
        features = detector.backbone(detector.batch([reference.image()]).tensor)
    for name, value in features.items():
        if not reference.is_resnet:
            check(reference, f"bottom_up.stage{name[3:]}", value)
            continue
        value = value.double()
        sums = torch.stack((value.sum(), value.abs().sum(), value.square().sum()))
        expected = read_golden(reference.file, f"{reference.prefix}bottom_up_sum.{name}").values
        torch.testing.assert_close(sums, expected, rtol=1e-6, atol=0)


def test_pyramid_equals_the_reference(reference: Reference, pyramid: dict[str, Tensor]) -> None:
    levels = [name.removeprefix(reference.prefix) for name in golden_names(reference.file, f"{reference.prefix}p")]
    assert list(pyramid) == sorted(name for name in levels if len(name) == 2)
    for name, value in pyramid.items():
        check(reference, name, value)


def test_proposal_head_equals_the_reference(
    reference: Reference, detector: Detector, pyramid: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        logits, deltas = detector.head.rpn.head(list(pyramid.values()))
    for name, logit, delta in zip(pyramid, logits, deltas, strict=True):
        check(reference, f"rpn_logits.{name}", logit)
        check(reference, f"rpn_deltas.{name}", delta)


def test_proposals_equal_the_reference(
    reference: Reference, detector: Detector, pyramid: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rpn, proposals = detector.head.rpn, []
    select = rpn.filter_proposals
    monkeypatch.setattr(rpn, "filter_proposals", lambda *inputs: proposals.append(select(*inputs)) or proposals[0])
    with torch.no_grad():
        detector.head.detect(detector.batch([reference.image()]), pyramid)
    [(boxes,), (logits,)] = proposals[0]
    check(reference, "proposal_boxes50", boxes[:50])
    check(reference, "proposal_logits50", logits[:50], tolerance=1e-4)  # the best 50 lie close together
    # Further down logits are closer than float32 resolves: the order may change, the set may not.
    expected = read_golden(reference.file, f"{reference.prefix}proposal_boxes_all").values.view(-1, 4)
    assert boxes.shape == expected.shape
    distance = torch.cdist(boxes, expected, p=float("inf"))
    assert distance.min(dim=0).values.max() < 1e-3
    assert distance.min(dim=1).values.max() < 1e-3


def fixed_boxes(reference: Reference) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """The regions that the reference's heads were run on, and the size of the image."""
    return [read_golden(reference.file, "fixed_boxes").values.view(-1, 4)], [reference.image_hw]


def test_box_heads_equal_the_reference(reference: Reference, detector: Detector, pyramid: dict[str, Tensor]) -> None:
    heads: RegionHeads = detector.head.roi_heads
    with torch.no_grad():
        pooled = heads.box_roi_pool(pyramid, *fixed_boxes(reference))
        outputs = [predictor(box_head(pooled)) for box_head, predictor in heads.box_stages]
    check(reference, "box_pooled_mean", pooled.mean(dim=(2, 3)))
    for stage, (classes, deltas) in enumerate(outputs):
        name = f"box{stage}" if len(outputs) > 1 else "box"
        check(reference, f"{name}_cls_logits", classes.roll(-1, 1))
        check(reference, f"{name}_deltas", deltas)


def test_mask_head_equals_the_reference(reference: Reference, detector: Detector, pyramid: dict[str, Tensor]) -> None:
    heads = detector.head.roi_heads
    assert heads.has_mask() == bool(golden_names(reference.file, f"{reference.prefix}mask_logits"))
    if heads.has_mask():
        with torch.no_grad():
            masks = heads.mask_logits(pyramid, *fixed_boxes(reference))
        check(reference, "mask_logits", masks[:, ::8])
        check(reference, "mask_logits_sum_per_class", masks.double().sum(dim=(2, 3)))


def test_detections_equal_the_reference(reference: Reference, detector: Detector) -> None:
    with torch.no_grad():
        detections = detector([reference.image()])[0]
    values = {"boxes": detections["boxes"], "scores": detections["scores"], "classes": detections["labels"] - 1}
    for name, value in values.items():
        golden = read_golden(reference.file, f"{reference.prefix}inst_{name}")
        assert tuple(value.shape) == tuple(golden.shape)
        if len(value):  # softmax of logits near 20
            check(reference, f"inst_{name}", value, tolerance=1e-4 if name == "scores" else TOLERANCE)
    if detector.head.roi_heads.has_mask():
        assert detections["masks"].shape == (len(detections["boxes"]), *reference.image_hw)
