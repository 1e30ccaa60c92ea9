from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from afictl.detectors import Detector, build_detector
from afictl.detectors.cascade_rcnn import CascadeHeads, build_cascade_mask_rcnn_head
from afictl.presets import load_preset
from afictl.weights.layouts.detectron2_names import rcnn_key
from tests.helpers.golden_files import read_keys
from tests.helpers.targets import no_object

Build = Callable[..., Detector]
Targets = list[dict[str, Tensor]]

STAGE_LOSSES = {f"loss_{name}_{stage}" for name in ("classifier", "box_reg") for stage in (1, 2, 3)}
LOSSES = {"loss_objectness", "loss_rpn_box_reg", *STAGE_LOSSES}
NORMED = ("detector.box_head=4conv1fc", "detector.head_norm=batch")
KINDS = {"cascade-rcnn": LOSSES, "cascade-mask-rcnn": {*LOSSES, "loss_mask"}}


@pytest.fixture
def heads(build: Build) -> CascadeHeads:
    return build("cascade-rcnn", "detector.kind=cascade-rcnn").head.roi_heads


@pytest.fixture
def maps() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"p{i}": torch.randn(2, 16, 128 >> i, 160 >> i) for i in range(2, 6)}


SIZES = [(120, 150), (100, 160)]
BOXES = [
    torch.tensor([[10.0, 10, 50, 40], [12, 8, 60, 40], [70, 60, 120, 90], [0, 0, 150, 120], [80, 20, 90, 30]]),
    torch.tensor([[0.0, 5, 20, 25], [30, 30, 90, 70]]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overrides", [(), NORMED], ids=["2fc", "4conv1fc and batch norm"])
@pytest.mark.parametrize("objects", ["objects", "no object"])
def test_training_gives_finite_losses_and_a_gradient_to_everything(
    build: Build, images: list[Tensor], targets: Targets, kind: str, overrides: tuple[str, ...], objects: str
) -> None:
    detector = build("cascade-rcnn", f"detector.kind={kind}", *overrides)
    if objects == "no object":
        targets = [{name: value[:0] for name, value in target.items()} for target in targets]
    losses = detector(images, targets)
    assert set(losses) == KINDS[kind]
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in detector.parameters())
    assert all(value.isfinite().all() for value in detector.buffers())


def test_losses_without_regions_are_zero_and_statistics_stay(build: Build, images: list[Tensor]) -> None:
    detector = build("cascade-rcnn", *NORMED)
    statistics = {name: value.clone() for name, value in detector.head.named_buffers() if "running" in name}
    targets = [no_object(*image.shape[-2:]) for image in images]
    sizes = [(97, 131), (120, 75)]
    _, losses = detector.head.roi_heads(detector.pyramid(images), [torch.zeros(0, 4)] * 2, sizes, targets)
    assert set(losses) == {*STAGE_LOSSES, "loss_mask"}
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(value.grad is not None for value in detector.head.roi_heads.parameters())
    after = dict(detector.head.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in statistics.items())


def match_in_loop(boxes: Tensor, objects: Tensor, labels: Tensor, iou: float) -> tuple[list[int], list[int]]:
    """Label and nearest object of each box, in a loop over the boxes."""
    target_labels, nearest = [], []
    for box in boxes:
        overlaps = [box_iou(box[None], target[None]).item() for target in objects]
        index = max(range(len(objects)), key=overlaps.__getitem__)
        nearest.append(index)
        target_labels.append(int(labels[index]) if overlaps[index] >= iou else 0)
    return target_labels, nearest


@pytest.mark.parametrize(("stage", "iou", "weights"), [(0, 0.5, (10, 5)), (1, 0.6, (20, 10)), (2, 0.7, (30, 15))])
def test_stages_match_at_increasing_overlaps(
    heads: CascadeHeads, stage: int, iou: float, weights: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    objects = torch.tensor([[10.0, 10, 50, 40], [60, 50, 120, 90]])
    labels = torch.tensor([3, 1])
    boxes = objects.repeat(100, 1) + torch.randn(200, 4) * 6
    target_labels, deltas = heads.match(boxes, {"boxes": objects, "labels": labels}, stage)
    expected, nearest = match_in_loop(boxes, objects, labels, iou)
    assert target_labels.tolist() == expected
    assert len(set(expected)) == 3
    for row, index in enumerate(nearest):
        if not expected[row]:
            continue
        (x1, y1, x2, y2), (a1, b1, a2, b2) = boxes[row].tolist(), objects[index].tolist()
        shift = [((a1 + a2) - (x1 + x2)) / 2 / (x2 - x1), ((b1 + b2) - (y1 + y2)) / 2 / (y2 - y1)]
        growth = torch.tensor([(a2 - a1) / (x2 - x1), (b2 - b1) / (y2 - y1)]).log()
        expected_deltas = torch.cat([torch.tensor(shift) * weights[0], growth * weights[1]])
        torch.testing.assert_close(deltas[row], expected_deltas, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("boxes", "objects"), [(3, 0), (0, 2), (0, 0)])
def test_boxes_of_a_stage_without_objects_are_background(heads: CascadeHeads, boxes: int, objects: int) -> None:
    target = {"boxes": torch.ones(objects, 4), "labels": torch.ones(objects, dtype=torch.int64)}
    labels, deltas = heads.match(torch.zeros(boxes, 4), target, 1)
    assert labels.tolist() == [0] * boxes
    assert deltas.shape == (boxes, 4)


def test_later_stages_train_on_all_boxes_of_the_previous_stage(
    heads: CascadeHeads, maps: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled_boxes: list[list[Tensor]] = []
    pool = heads.box_roi_pool.forward
    monkeypatch.setattr(
        heads.box_roi_pool, "forward", lambda x, boxes, shapes: pooled_boxes.append(boxes) or pool(x, boxes, shapes)
    )
    with torch.no_grad():  # stage 1 moves every box to the left by 1.1 times its width, some out of the image
        heads.box_predictor[0].bbox_pred.bias.copy_(torch.tensor([-11.0, 0, 0, 0]))
    targets = [
        {"boxes": BOXES[0][:1], "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    heads(maps, BOXES, SIZES, targets)
    first, second, third = pooled_boxes
    for boxes, moved, shape in zip(first, second, SIZES, strict=True):
        width = 1.1 * (boxes[:, 2] - boxes[:, 0])
        expected = boxes - torch.stack([width, width * 0, width, width * 0], dim=1)
        expected[:, 0::2] = expected[:, 0::2].clamp(0, shape[1])
        expected[:, 1::2] = expected[:, 1::2].clamp(0, shape[0])
        expected = expected[expected[:, 2] > expected[:, 0]]
        assert 0 < len(expected) < len(boxes)
        torch.testing.assert_close(moved, expected, atol=0.5, rtol=0)
    assert [len(boxes) for boxes in third] == [len(boxes) for boxes in second]
    assert not any(boxes.requires_grad for boxes in (*second, *third))


def test_gradient_of_a_stage_on_the_maps_is_divided_by_three(heads: CascadeHeads, maps: dict[str, Tensor]) -> None:
    maps["p2"].requires_grad_()
    gradients = []
    for pooled in (False, True):
        maps["p2"].grad = None
        if pooled:
            logits, deltas = heads.classify(maps, BOXES, SIZES, stage=1)
        else:
            regions = heads.box_roi_pool(maps, BOXES, SIZES)
            logits, deltas = heads.box_predictor[1](heads.box_head[1](regions))
        (logits.square().sum() + deltas.square().sum()).backward()
        weight = heads.box_head[1].fc6.weight
        gradients.append((maps["p2"].grad.clone(), weight.grad.clone()))
        weight.grad = None
    (map_gradient, weight_gradient), (scaled_map_gradient, same_weight_gradient) = gradients
    assert map_gradient.any()
    torch.testing.assert_close(scaled_map_gradient, map_gradient / 3)
    torch.testing.assert_close(same_weight_gradient, weight_gradient)


def test_detections_have_the_mean_score_and_the_last_boxes(heads: CascadeHeads, maps: dict[str, Tensor]) -> None:
    heads.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for predictor in heads.box_predictor:
            predictor.cls_score.weight.normal_(std=0.5)
            predictor.bbox_pred.weight.normal_(std=0.5)
        boxes, scores = BOXES, []
        for stage, weights in enumerate([(10, 5), (20, 10), (30, 15)]):
            logits, deltas = heads.classify(maps, boxes, SIZES, stage)
            scores.append(logits.softmax(1))
            moved = decode(torch.cat(boxes), deltas, weights).split([5, 2])
            boxes = [clip(box, size) for box, size in zip(moved, SIZES, strict=True)]
        heads.score_thresh, heads.nms_thresh = 0.0, 1.0
        predictions, losses = heads(maps, BOXES, SIZES)
    assert losses == {}
    assert scores[0].sub(scores[2]).abs().max() > 0.1
    mean = ((scores[0] + scores[1] + scores[2]) / 3)[:, 1:].split([5, 2])
    for prediction, last, score in zip(predictions, boxes, mean, strict=True):
        assert len(prediction["scores"]) == score.numel()
        torch.testing.assert_close(prediction["scores"], score.flatten().sort(descending=True).values)
        highest = score.flatten().argmax()
        torch.testing.assert_close(prediction["boxes"][0], last[highest // 3], atol=1e-3, rtol=1e-4)
        assert prediction["labels"][0] == highest % 3 + 1


def decode(boxes: Tensor, deltas: Tensor, weights: tuple[int, int]) -> Tensor:
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + size / 2 + deltas[:, :2] / weights[0] * size
    size = size * (deltas[:, 2:] / weights[1]).exp()
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    limit = torch.tensor([size[1], size[0]] * 2)
    return boxes.clamp(min=0).minimum(limit)


def test_masks_train_on_the_first_stages_objects_and_run_on_the_final_boxes(
    build: Build, images: list[Tensor], targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = build("cascade-rcnn")
    heads, samples, segmented = detector.head.roi_heads, [], []
    select, mask_logits = heads.select_training_samples, heads.mask_logits
    monkeypatch.setattr(heads, "select_training_samples", lambda *args: samples.append(select(*args)) or samples[0])
    monkeypatch.setattr(heads, "mask_logits", lambda *args: segmented.append(args[1]) or mask_logits(*args))
    detector(images, targets)
    boxes, _, labels, _ = samples[0]
    assert len(segmented[0][0]) > 0
    for of_image, label, masked in zip(boxes, labels, segmented[0], strict=True):
        assert torch.equal(of_image[label > 0], masked)
    with torch.no_grad():
        predictions = detector.eval().detect(images)
    for masked, prediction in zip(segmented[1], predictions, strict=True):
        assert torch.equal(masked, prediction["boxes"])
        assert prediction["mask_probs"].shape == (len(masked), 28, 28)


@pytest.mark.parametrize("kind", KINDS)
def test_detections_follow_torchvisions_convention(build: Build, images: list[Tensor], kind: str) -> None:
    detector = build("cascade-rcnn", f"detector.kind={kind}").eval()
    with torch.no_grad():
        predictions = detector(images)
    for image, prediction in zip(images, predictions, strict=True):
        assert 0 < len(prediction["labels"]) <= 100
        assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)
        assert set(prediction["labels"].tolist()) <= {1, 2, 3}
        assert (prediction["boxes"] >= 0).all()
        assert (prediction["boxes"][:, 2:] <= torch.tensor(image.shape[:0:-1])).all()
        assert ("masks" in prediction) == (kind == "cascade-mask-rcnn")


def test_detections_are_empty_without_proposals(build: Build, images: list[Tensor]) -> None:
    detector = build("cascade-rcnn", *NORMED).eval()
    with torch.no_grad():
        detector.head.rpn.head.bbox_pred.bias.fill_(torch.nan)
        assert len(detector(images)[1]["boxes"]) == 0


def test_under_autocast_losses_are_float32(build: Build, images: list[Tensor], targets: Targets) -> None:
    few = ("detector.roi_batch=16", "detector.proposals_test=20")  # bfloat16 is slow on many processors
    detector = build("cascade-rcnn", *NORMED, *few)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, targets)
        detection = detector.eval().detect(images)[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert detection["boxes"].dtype == torch.float32


def test_parts_count_all_three_box_heads(build: Build) -> None:
    counts = {}
    for kind in ("faster-rcnn", "cascade-rcnn"):
        detector = build(kind)
        with torch.no_grad():
            parts = {part.name: part for part in detector.head.parts(detector.pyramid([torch.rand(3, 64, 64)]))}
        counts[kind] = parts["box head"]
    heads = [counts["cascade-rcnn"], counts["faster-rcnn"]]
    assert [part.workload for part in heads] == ["3 x 300 regions", "300 regions"]
    sizes = [sum(value.numel() for module in part.modules for value in module.parameters()) for part in heads]
    shared = 3 * 4 * (32 + 1) - 3 * 3 * 4 * (32 + 1)  # one box, not one for each of three classes
    assert sizes[0] == 3 * sizes[1] + shared


def test_class_layers_are_those_that_depend_on_the_classes(build: Build) -> None:
    small = build("cascade-rcnn")
    large = build_detector(small.preset, num_classes=5)
    shapes = {name: value.shape for name, value in small.head.named_parameters()}
    changed = [name for name, value in large.head.named_parameters() if value.shape != shapes[name]]
    assert len(changed) == 2 * 3 + 2
    assert all(name.startswith(small.head.class_layers) for name in changed)


@pytest.mark.parametrize("neck", ["fpn", "pafpn"])
def test_heads_of_the_published_resnest_detectors(neck: str) -> None:
    config = load_preset(f"cascade-rcnn-s101-{neck}").detector
    assert config.kind == "cascade-mask-rcnn"
    with torch.device("meta"):
        head = build_cascade_mask_rcnn_head(config, 256, {f"p{i}": 2**i for i in range(2, 7)}, num_classes=80)
    shapes = {rcnn_key(name): tuple(value.shape) for name, value in head.state_dict().items()}
    keys = read_keys(f"afi_cascade_mask_ResNeSt101_{neck.upper()}")
    assert shapes == {name: key.shape for name, key in keys.items() if not name.startswith("backbone.")}
