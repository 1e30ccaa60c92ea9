"""Notes on the limits of the number of detections."""

import json

import numpy as np

from afictl.data import load_dataset
from afictl.data.check import check_split
from afictl.evaluation import score_predictions
from afictl.evaluation.detection_limit import DetectionSummary, images_cut_by_coco, objects_note
from tests.helpers.changed_data import change_annotations


def crowd_image(split, content):
    """Give the first image 101 objects."""
    image = content["images"][0]["id"]
    box = {"image_id": image, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": 0}
    others = [item for item in content["annotations"] if item["image_id"] != image]
    content["annotations"] = others + [{"id": 10_000 + k, **box} for k in range(101)]


def test_images_with_more_objects_than_the_limit_are_noted(shapes_dir, tmp_path):
    data = change_annotations(shapes_dir, tmp_path / "data", crowd_image)
    note = objects_note(load_dataset(data, "val"), 100)
    for fact in ("1 of 6 images", "more than 100 objects, up to 101", "detector.max_detections"):
        assert fact in note
    assert objects_note(load_dataset(data, "val"), 101) == ""
    (crowded,) = check_split(data, "val", images=False).findings["crowded-image"]
    assert "101 objects" in str(crowded)
    assert "crowded-image" not in check_split(shapes_dir, "val", images=False).findings


def test_images_at_the_limit_of_a_detector_are_noted():
    assert DetectionSummary(False, 100, 5, 0).note == ""
    assert "2 of 5 images have 100 detections" in DetectionSummary(False, 100, 5, 2).note


def test_images_of_which_coco_counts_a_part_of_the_detections():
    images, categories = np.repeat([0, 1, 1, 2], [100, 101, 101, 101]), np.repeat([0, 0, 1, 4], [100, 101, 101, 101])
    assert images_cut_by_coco(images, categories) == 2
    assert images_cut_by_coco(images[:0], categories[:0]) == 0


def test_score_counts_images_with_more_predictions_than_coco_does(shapes_dir):
    annotation = json.loads((shapes_dir / "annotations" / "instances_val2017.json").read_text())["annotations"][0]
    result = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
    results = [{**result, "score": 0.9 - k / 1000} for k in range(101)]
    assert score_predictions(results, load_dataset(shapes_dir, "val")).cut_images == 1
    assert score_predictions(results[1:], load_dataset(shapes_dir, "val")).cut_images == 0
