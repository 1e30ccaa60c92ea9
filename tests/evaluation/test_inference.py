"""Evaluation of detectors: both conventions, limits, class names, and what it leaves behind."""

import json

import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from afictl.data import load_coco, read_image
from afictl.data.segmentation import draw_segmentation
from afictl.data.shapes import make_shapes
from afictl.detectors import Detector, build_detector, paste_masks
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation import EVALUATORS, detect, evaluate, score_predictions
from afictl.evaluation.tta import TestTimeAugmentation as Recipe
from afictl.evaluation.tta import detect_augmented
from afictl.presets import InputConfig, load_preset

IMAGES = 5
RUNTIME = Runtime(workers=0)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return load_coco(make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=IMAGES, size=96), "val")


def results_of(path):
    return json.loads(path.read_text())


def truth(index, i):
    """The ground truth of image ``i`` as a detection with masks."""
    objects, size = index.objects(i), index.size_hw(i)
    masks = [torch.from_numpy(draw_segmentation(item, size, size)) for item in objects.segmentations]
    return {
        "boxes": objects.boxes,
        "labels": objects.labels,
        "scores": torch.linspace(0.9, 0.5, len(objects.labels)),
        "masks": torch.stack(masks).bool(),
    }


class Oracle(nn.Module):
    """Torchvision's convention: sees original images and answers with the ground truth, in order."""

    def __init__(self, index, probabilities=False):
        nn.Module.__init__(self)
        self.norm = nn.BatchNorm2d(3)
        self.index, self.probabilities, self.seen = index, probabilities, []

    def forward(self, images):
        assert not self.training
        answers = []
        for image in images:
            i = len(self.seen)
            assert image.shape[-2:] == self.index.size_hw(i)
            assert image.dtype == torch.float32
            assert image.max() <= 1
            self.seen.append(i)
            answer = truth(self.index, i)
            if self.probabilities:
                answer["masks"] = answer["masks"][:, None].float() * 0.8
            answers.append(answer)
        return answers


class ResizedOracle(Oracle, Detector):
    """Our convention: sees resized images in batches, answers in their pixels, masks on the boxes' grids."""

    paste_masks = staticmethod(paste_masks)

    def __init__(self, index, size):
        super().__init__(index)
        self.input = InputConfig(min_sizes=(size,), test_size=size, max_size=4 * size)

    def detect(self, images):
        answers = []
        for image in images:
            i = len(self.seen)
            scale = image.shape[-1] / self.index.size_hw(i)[1]
            self.seen.append(i)
            answer = truth(self.index, i)
            del answer["masks"]
            answer["boxes"] = answer["boxes"] * scale
            answers.append({**answer, "mask_probs": torch.ones(len(answer["boxes"]), 28, 28)})
        return answers


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_torchvision_convention_with_perfect_answers(index, tmp_path, evaluator, probabilities):
    path = tmp_path / "predictions.json"
    result = evaluate(Oracle(index, probabilities), index, RUNTIME, predictions=path, evaluator=evaluator)
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert result.metrics["mask/AP"] == pytest.approx(100)
    assert sum(row["objects"] for row in result.per_class) == len(results_of(path))


@pytest.mark.parametrize(("batch_size", "size"), [(1, 96), (2, 160), (3, 61)])
def test_our_convention_maps_back_to_the_original_pixels(index, tmp_path, batch_size, size):
    path = tmp_path / "predictions.json"
    result = evaluate(ResizedOracle(index, size), index, RUNTIME, predictions=path, batch_size=batch_size)
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert 0 < result.metrics["mask/AP"] < 100  # full boxes as masks of round and cross-shaped objects
    for prediction in results_of(path):
        x, y, width, height = prediction["bbox"]
        filled = coco_mask.toBbox(prediction["segmentation"]).tolist()
        assert filled == pytest.approx([x, y, width, height], abs=1.001)


def test_predictions_are_coco_results(index, tmp_path):
    path = tmp_path / "new" / "folder" / "predictions.json"
    result = evaluate(Oracle(index), index, RUNTIME, predictions=path)
    assert score_predictions(path, index.annotation_file).metrics == result.metrics
    reread = results_of(path)
    assert score_predictions(reread, index.annotation_file).metrics == result.metrics
    image = {item["image_id"]: index.size_hw(i) for i, item in enumerate({"image_id": k} for k in index.image_ids)}
    for prediction in reread:
        assert set(prediction) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert tuple(prediction["segmentation"]["size"]) == image[prediction["image_id"]]
        assert prediction["category_id"] in index.category_ids


@pytest.mark.parametrize("detector", [Oracle, lambda index: ResizedOracle(index, 96)])
def test_mask_scores_become_part_of_the_results(index, tmp_path, detector):
    oracle = detector(index)
    name = "detect" if hasattr(oracle, "detect") else "forward"
    answer = getattr(oracle, name)
    setattr(oracle, name, lambda images: [{**a, "mask_scores": a["scores"] / 2} for a in answer(images)])
    evaluate(oracle, index, RUNTIME, predictions=tmp_path / "predictions.json")
    for result in results_of(tmp_path / "predictions.json"):
        assert result["mask_score"] == pytest.approx(result["score"] / 2)


def test_limit_restricts_both_sides_and_progress_counts_images(index, tmp_path):
    calls, path = [], tmp_path / "predictions.json"
    keep = {"predictions": path, "progress": lambda *at: calls.append(at)}
    result = evaluate(Oracle(index), index, RUNTIME, limit=2, **keep)
    assert calls == [(1, 2), (2, 2)]
    assert {item["image_id"] for item in results_of(path)} == set(index.image_ids[:2])
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert sum(row["objects"] for row in result.per_class) == len(results_of(path))


def test_classes_are_matched_by_name(index):
    """A detector whose labels are in another order, with a placeholder among them as torchvision's have."""
    classes = [*reversed(index.classes), "N/A"]

    class Reversed(Oracle):
        def forward(self, images):
            answers = super().forward(images)
            return [{**a, "labels": len(index.classes) + 1 - a["labels"]} for a in answers]

    assert evaluate(Reversed(index), index, RUNTIME, classes=classes).metrics["box/AP"] == pytest.approx(100)
    assert evaluate(Reversed(index), index, RUNTIME).metrics["box/AP"] < 50


def test_other_classes_are_named(index):
    classes = ["disc", "square", "triangle", "zebra"]
    with pytest.raises(UserError, match=r"detector does not have 'cross'; .*instances_val.* does not have 'zebra'"):
        evaluate(Oracle(index), index, RUNTIME, classes=classes)
    detector = build_detector("faster-rcnn-r18-fpn-tiny", num_classes=7, interpolator="nearest")
    with pytest.raises(UserError, match="the detector has 7 classes"):
        evaluate(detector, index, RUNTIME)


def test_label_beyond_the_data_set_is_an_error(index):
    class Wide(Oracle):
        def forward(self, images):
            return [{**a, "labels": a["labels"] + 80} for a in super().forward(images)]

    with pytest.raises(UserError, match="pass the detector's class names"):
        evaluate(Wide(index), index, RUNTIME)


def test_every_module_gets_its_mode_back(index):
    detector = Oracle(index).train()
    detector.norm.eval()
    evaluate(detector, index, RUNTIME, limit=1)
    assert detector.training
    assert not detector.norm.training


def test_a_detector_that_finds_nothing(index, tmp_path):
    class Blind(Oracle):
        def forward(self, images):
            return [{k: v[:0] for k, v in answer.items()} for answer in super().forward(images)]

    for evaluator in EVALUATORS:
        path = tmp_path / "predictions.json"
        result = evaluate(Blind(index), index, RUNTIME, predictions=path, evaluator=evaluator)
        assert results_of(path) == []
        assert result.metrics["box/AP"] == result.metrics["mask/AP"] == 0


@pytest.mark.parametrize("kind", ["faster-rcnn", "mask-rcnn"])
def test_an_untrained_detector_of_ours(index, tmp_path, kind):
    settings = ["input.min_sizes=[64]", "input.test_size=64", "detector.score_threshold=0.0"]
    preset = load_preset(f"{kind}-r18-fpn-tiny", settings)
    detector = build_detector(preset, num_classes=len(index.classes), interpolator="nearest")
    path = tmp_path / "predictions.json"
    result = evaluate(detector, index, RUNTIME, predictions=path, limit=2, classes=index.classes)
    assert results_of(path)
    assert ("mask/AP" in result.metrics) == (kind == "mask-rcnn")
    assert detector.training


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("broken image"), OSError(28, "No space left")])
def test_an_interrupted_evaluation_keeps_the_results_of_before(index, tmp_path, error):
    """Also where it stops behind the first images."""
    path = tmp_path / "predictions.json"
    evaluate(Oracle(index), index, RUNTIME, predictions=path, limit=1)
    before = path.read_bytes()

    class Stopping(Oracle):
        def forward(self, images):
            if len(self.seen) == IMAGES - 1:
                raise error
            return super().forward(images)

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        evaluate(Stopping(index), index, RUNTIME, predictions=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_memory_does_not_hold_results(index, tmp_path):
    """Of many images with large answers no more is alive than of a few."""
    import tracemalloc

    class Busy(Oracle):
        def forward(self, images):
            self.seen.append(0)
            boxes = torch.rand(100, 2).repeat(1, 2) * 40 + torch.tensor([0.0, 0, 40, 40])
            scores, masks = torch.rand(100), torch.rand(100, 96, 96) > 0.5
            return [{"boxes": boxes, "labels": torch.ones(100, dtype=torch.int64), "scores": scores, "masks": masks}]

    def peak(images):
        from dataclasses import replace

        arrays = dict(index.arrays)
        places = torch.zeros(images, dtype=torch.int64)
        arrays["image_ids"], arrays["sizes_hw"] = torch.arange(images), index.arrays["sizes_hw"][places]
        many = replace(index, arrays=arrays)
        many.__dict__["image_path"] = lambda i: index.image_path(0)
        tracemalloc.start()
        detect(Busy(index), many, tmp_path / "predictions.json", RUNTIME)
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    few, _ = peak(8)
    many, _ = peak(64)
    assert many < 1.3 * few
    assert (tmp_path / "predictions.json").stat().st_size > 4 * many / 8


def test_multi_scale_testing_of_every_image(index, tmp_path):
    settings = ["input.test_size=96", "detector.score_threshold=0.0"]
    detector = build_detector(load_preset("mask-rcnn-r18-fpn-tiny", settings), len(index.classes), "nearest").eval()
    expected = []
    for i, image_id in enumerate(index.image_ids):
        found = detect_augmented(detector, read_image(index.image_path(i)), Recipe((64, 96)))
        expected += [(image_id, score) for score in found["scores"].tolist()]
    calls = []
    path = tmp_path / "predictions.json"
    keep = {"predictions": path, "progress": lambda *at: calls.append(at)}
    evaluate(detector, index, Runtime(workers=1), tta=Recipe((64, 96)), **keep)
    results = results_of(path)
    assert [item["image_id"] for item in results] == [image_id for image_id, _ in expected]
    assert [item["score"] for item in results] == pytest.approx([score for _, score in expected])
    assert all(item["segmentation"] for item in results)
    assert calls[-1] == (IMAGES, IMAGES)
    with pytest.raises(UserError, match="needs a detector built from a preset, not a Oracle"):
        evaluate(Oracle(index), index, RUNTIME, tta=Recipe())
