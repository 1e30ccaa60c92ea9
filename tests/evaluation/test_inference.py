"""Detection on a dataset and its metrics: both conventions, limits, class names, files and modes."""

import json

import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from afictl.data import load_dataset, read_image
from afictl.data.segmentation import draw_segmentation
from afictl.data.shapes import make_shapes
from afictl.detectors import Detector, build_detector, paste_masks
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation import EVALUATORS, detect, evaluate, score_predictions
from afictl.evaluation.tta import TestTimeAugmentation as Augmentation
from afictl.evaluation.tta import detect_augmented
from afictl.presets import InputConfig, load_preset
from tests.helpers.ranks import on_ranks

IMAGES = 5
RUNTIME = Runtime(workers=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=IMAGES, size=96), "val")


def results_of(path):
    return json.loads(path.read_text())


def truth(dataset, i):
    """The ground truth of image ``i`` as a detection with masks."""
    objects, size = dataset.objects(i), dataset.size_hw(i)
    masks = [torch.from_numpy(draw_segmentation(item, size, size)) for item in objects.segmentations]
    return {
        "boxes": objects.boxes,
        "labels": objects.labels,
        "scores": torch.linspace(0.9, 0.5, len(objects.labels)),
        "masks": torch.stack(masks).bool(),
    }


class Oracle(nn.Module):
    """Ground truth as detections on the original images, in their order, in torchvision's convention."""

    def __init__(self, dataset, probabilities=False):
        nn.Module.__init__(self)
        self.norm = nn.BatchNorm2d(3)
        self.dataset, self.probabilities, self.num_images = dataset, probabilities, 0

    def forward(self, images):
        assert not self.training
        return [self.detection(image) for image in images]

    def detection(self, image):
        i = self.num_images
        assert image.shape[-2:] == self.dataset.size_hw(i)
        assert image.dtype == torch.float32
        assert image.max() <= 1
        self.num_images += 1
        detection = truth(self.dataset, i)
        if self.probabilities:
            detection["masks"] = detection["masks"][:, None].float() * 0.8
        return detection


class Empty(nn.Module):
    """No detections on any image."""

    def forward(self, images):
        nothing = torch.zeros(0)
        return [{"boxes": nothing.reshape(0, 4), "labels": nothing.long(), "scores": nothing} for _ in images]


class ResizedOracle(Oracle, Detector):
    """The same as a ``Detector``: on resized images in batches, with masks on the grids of the boxes."""

    paste_masks = staticmethod(paste_masks)

    def __init__(self, dataset, size):
        super().__init__(dataset)
        self.preset = load_preset("faster-rcnn-r18-fpn-tiny")
        self.input = InputConfig(min_sizes=(size,), test_size=size, max_size=4 * size)

    def detect(self, images):
        return [self.detection(image) for image in images]

    def detection(self, image):
        scale = image.shape[-1] / self.dataset.size_hw(self.num_images)[1]
        detection = truth(self.dataset, self.num_images)
        self.num_images += 1
        del detection["masks"]
        mask_probs = torch.ones(len(detection["boxes"]), 28, 28)
        return {**detection, "boxes": detection["boxes"] * scale, "mask_probs": mask_probs}


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_perfect_detections_in_torchvisions_convention_have_full_ap(dataset, tmp_path, evaluator, probabilities):
    path = tmp_path / "predictions.json"
    result = evaluate(Oracle(dataset, probabilities), dataset, RUNTIME, predictions=path, evaluator=evaluator)
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert result.metrics["mask/AP"] == pytest.approx(100)
    assert sum(row["objects"] for row in result.per_class) == len(results_of(path))


@pytest.mark.parametrize(("batch_size", "size"), [(1, 96), (2, 160), (3, 61)])
def test_detections_on_resized_images_are_mapped_to_the_original(dataset, tmp_path, batch_size, size):
    path = tmp_path / "predictions.json"
    result = evaluate(ResizedOracle(dataset, size), dataset, RUNTIME, predictions=path, batch_size=batch_size)
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert 0 < result.metrics["mask/AP"] < 100  # full boxes as masks of round and cross-shaped objects
    for prediction in results_of(path):
        x, y, width, height = prediction["bbox"]
        filled = coco_mask.toBbox(prediction["segmentation"]).tolist()
        assert filled == pytest.approx([x, y, width, height], abs=1.001)


def test_predictions_are_coco_results(dataset, tmp_path):
    path = tmp_path / "new" / "folder" / "predictions.json"
    result = evaluate(Oracle(dataset), dataset, RUNTIME, predictions=path)
    assert score_predictions(path, dataset.annotation_file).metrics == result.metrics
    reread = results_of(path)
    assert score_predictions(reread, dataset.annotation_file).metrics == result.metrics
    image = {item["image_id"]: dataset.size_hw(i) for i, item in enumerate({"image_id": k} for k in dataset.image_ids)}
    for prediction in reread:
        assert set(prediction) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert tuple(prediction["segmentation"]["size"]) == image[prediction["image_id"]]
        assert prediction["category_id"] in dataset.category_ids


@pytest.mark.parametrize("detector", [Oracle, lambda dataset: ResizedOracle(dataset, 96)])
def test_mask_scores_are_part_of_the_results(dataset, tmp_path, detector):
    oracle = detector(dataset)
    name = "detect" if hasattr(oracle, "detect") else "forward"
    method = getattr(oracle, name)
    setattr(oracle, name, lambda images: [{**d, "mask_scores": d["scores"] / 2} for d in method(images)])
    evaluate(oracle, dataset, RUNTIME, predictions=tmp_path / "predictions.json")
    for result in results_of(tmp_path / "predictions.json"):
        assert result["mask_score"] == pytest.approx(result["score"] / 2)


def test_limit_restricts_both_sides_and_progress_counts_images(dataset, tmp_path):
    calls, path = [], tmp_path / "predictions.json"
    outputs = {"predictions": path, "progress": lambda *call: calls.append(call)}
    result = evaluate(Oracle(dataset), dataset, RUNTIME, limit=2, **outputs)
    assert calls == [(1, 2), (2, 2)]
    assert {item["image_id"] for item in results_of(path)} == set(dataset.image_ids[:2])
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert sum(row["objects"] for row in result.per_class) == len(results_of(path))


def test_classes_are_matched_by_name(dataset):
    """Labels in another order than in the dataset, with a placeholder as in torchvision's models."""
    classes = [*reversed(dataset.classes), "N/A"]

    class Reversed(Oracle):
        def forward(self, images):
            num_classes = len(dataset.classes)
            return [{**d, "labels": num_classes + 1 - d["labels"]} for d in super().forward(images)]

    assert evaluate(Reversed(dataset), dataset, RUNTIME, classes=classes).metrics["box/AP"] == pytest.approx(100)
    assert evaluate(Reversed(dataset), dataset, RUNTIME).metrics["box/AP"] < 50


def test_mismatched_classes_are_named(dataset):
    classes = ["disc", "square", "triangle", "zebra"]
    with pytest.raises(UserError, match=r"'cross'.*instances_val.*'zebra'"):
        evaluate(Oracle(dataset), dataset, RUNTIME, classes=classes)
    detector = build_detector("faster-rcnn-r18-fpn-tiny", num_classes=7, interpolator="nearest")
    with pytest.raises(UserError, match="7 classes"):
        evaluate(detector, dataset, RUNTIME)


def test_label_beyond_the_data_set_is_an_error(dataset):
    class Wide(Oracle):
        def forward(self, images):
            return [{**d, "labels": d["labels"] + 80} for d in super().forward(images)]

    with pytest.raises(UserError, match=r"label .* 4 categories"):
        evaluate(Wide(dataset), dataset, RUNTIME)


def test_evaluation_restores_the_mode_of_every_module(dataset):
    detector = Oracle(dataset).train()
    detector.norm.eval()
    evaluate(detector, dataset, RUNTIME, limit=1)
    assert detector.training
    assert not detector.norm.training


def test_a_detector_without_detections_has_zero_ap(dataset, tmp_path):
    class Blind(Oracle):
        def forward(self, images):
            return [{k: v[:0] for k, v in detection.items()} for detection in super().forward(images)]

    for evaluator in EVALUATORS:
        path = tmp_path / "predictions.json"
        result = evaluate(Blind(dataset), dataset, RUNTIME, predictions=path, evaluator=evaluator)
        assert results_of(path) == []
        assert result.metrics["box/AP"] == result.metrics["mask/AP"] == 0


@pytest.mark.parametrize("kind", ["faster-rcnn", "mask-rcnn"])
def test_an_untrained_detector_is_evaluated(dataset, tmp_path, kind):
    settings = ["input.min_sizes=[64]", "input.test_size=64", "detector.score_threshold=0.0"]
    preset = load_preset(f"{kind}-r18-fpn-tiny", settings)
    detector = build_detector(preset, num_classes=len(dataset.classes), interpolator="nearest")
    path = tmp_path / "predictions.json"
    result = evaluate(detector, dataset, RUNTIME, predictions=path, limit=2, classes=dataset.classes)
    assert results_of(path)
    assert ("mask/AP" in result.metrics) == (kind == "mask-rcnn")
    assert detector.training


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("broken image"), OSError(28, "No space left")])
def test_an_interrupted_evaluation_leaves_the_earlier_results(dataset, tmp_path, error):
    """Also if it stops after the first images."""
    path = tmp_path / "predictions.json"
    evaluate(Oracle(dataset), dataset, RUNTIME, predictions=path, limit=1)
    content = path.read_bytes()

    class Stopping(Oracle):
        def forward(self, images):
            if self.num_images == IMAGES - 1:
                raise error
            return super().forward(images)

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        evaluate(Stopping(dataset), dataset, RUNTIME, predictions=path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def detect_until_rank_one_is_told_to_stop(fabric, data, folder):
    stopped_at = 0

    def stop_on_rank_one(done, total):
        nonlocal stopped_at
        stopped_at = done
        if fabric.global_rank == 1:
            raise KeyboardInterrupt

    dataset = load_dataset(data, "train")
    try:
        evaluate(Empty(), dataset, Runtime.of_fabric(fabric, 0), progress=stop_on_rank_one)
    except KeyboardInterrupt:
        (folder / f"rank{fabric.global_rank}").write_text(f"{stopped_at} of {len(dataset)}")


def test_a_request_to_any_process_ends_an_evaluation_after_a_few_images(shapes_dir, tmp_path):
    on_ranks(2, detect_until_rank_one_is_told_to_stop, shapes_dir, tmp_path)
    assert (tmp_path / "rank1").read_text() == "1 of 14"
    assert (tmp_path / "rank0").read_text() == "8 of 14"


def test_memory_does_not_grow_with_results(dataset, tmp_path):
    """The peak for many images with large detections is that for a few images."""
    import tracemalloc

    class Busy(Oracle):
        def forward(self, images):
            boxes = torch.rand(100, 2).repeat(1, 2) * 40 + torch.tensor([0.0, 0, 40, 40])
            scores, masks = torch.rand(100), torch.rand(100, 96, 96) > 0.5
            return [{"boxes": boxes, "labels": torch.ones(100, dtype=torch.int64), "scores": scores, "masks": masks}]

    def peak(images):
        from dataclasses import replace

        arrays = dict(dataset.arrays)
        first = torch.zeros(images, dtype=torch.int64)
        arrays["image_ids"], arrays["sizes_hw"] = torch.arange(images), dataset.arrays["sizes_hw"][first]
        many = replace(dataset, arrays=arrays)
        many.__dict__["image_path"] = lambda i: dataset.image_path(0)
        tracemalloc.start()
        detect(Busy(dataset), many, tmp_path / "predictions.json", RUNTIME)
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    few, _ = peak(8)
    many, _ = peak(64)
    assert many < 1.3 * few
    assert (tmp_path / "predictions.json").stat().st_size > 4 * many / 8


def test_test_time_augmentation_of_every_image(dataset, tmp_path):
    settings = ["backbone.name=test_resnet", "input.test_size=96", "detector.score_threshold=0.0"]
    preset = load_preset("mask-rcnn-r18-fpn-tiny", [*settings, "detector.max_detections=20"])
    detector = build_detector(preset, len(dataset.classes), "nearest").eval()
    expected = []
    for i, image_id in enumerate(dataset.image_ids):
        detection = detect_augmented(detector, read_image(dataset.image_path(i)), Augmentation((64, 96)))
        expected += [(image_id, score) for score in detection["scores"].tolist()]
    calls = []
    path = tmp_path / "predictions.json"
    outputs = {"predictions": path, "progress": lambda *call: calls.append(call)}
    evaluate(detector, dataset, Runtime(workers=1), views=Augmentation((64, 96)), **outputs)
    results = results_of(path)
    assert [item["image_id"] for item in results] == [image_id for image_id, _ in expected]
    assert [item["score"] for item in results] == pytest.approx([score for _, score in expected])
    assert all(item["segmentation"] for item in results)
    assert calls[-1] == (IMAGES, IMAGES)
    with pytest.raises(UserError, match="Oracle"):
        evaluate(Oracle(dataset), dataset, RUNTIME, views=Augmentation())
