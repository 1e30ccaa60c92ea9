"""Ground truth derived from a dataset."""

import json

import numpy as np
import pytest

from afictl.data.formats.coco import load_coco_file
from afictl.evaluation.ground_truth import ground_truth_of, masks_of
from tests.evaluation.test_scoring import random_set

COLUMNS = ("image_ids", "sizes_hw", "images", "categories", "boxes", "areas", "crowd")


@pytest.fixture
def dataset(tmp_path):
    contents = random_set(np.random.default_rng(3))
    contents["images"].reverse()
    contents["categories"].reverse()
    np.random.default_rng(4).shuffle(contents["annotations"])
    contents["annotations"][0]["bbox"] = [1, 2, float("inf"), 3]  # cannot be scored
    contents["annotations"][1]["segmentation"] = []
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(contents))
    return load_coco_file(file, tmp_path)


@pytest.mark.parametrize("image_ids", [None, [13, 10, 22]])
def test_ground_truth_has_the_values_of_the_file(dataset, image_ids):
    contents = json.loads(dataset.annotation_file.read_text())
    truth = ground_truth_of(dataset, image_ids)
    ids = sorted(image["id"] for image in contents["images"] if not image_ids or image["id"] in image_ids)
    assert truth.image_ids.tolist() == ids
    assert truth.category_ids == (1, 5, 90, 91)
    objects = [item for k in ids for item in contents["annotations"][1:] if item["image_id"] == k]
    assert truth.boxes.tolist() == [item["bbox"] for item in objects]
    assert truth.areas.tolist() == [item["area"] for item in objects]
    assert [truth.category_ids[k] for k in truth.categories] == [item["category_id"] for item in objects]
    assert truth.crowd.tolist() == [bool(item["iscrowd"]) for item in objects]
    assert masks_of(truth).crowd.sum() == sum(bool(item["iscrowd"]) or not item["segmentation"] for item in objects)


def test_ground_truth_of_dataset_and_file_are_equal(dataset):
    truths = [ground_truth_of(source, None) for source in (dataset, dataset.annotation_file)]
    for name in COLUMNS:
        np.testing.assert_array_equal(*(getattr(truth, name) for truth in truths))
    rows = range(len(truths[0].boxes))
    first, second = (masks_of(truth).masks.read(rows) for truth in truths)
    assert first == second


def test_label_order_of_a_detector_does_not_change_ground_truth(dataset):
    truth = ground_truth_of(dataset, None)
    reordered = ground_truth_of(dataset.in_label_order(dataset.classes[::-1]), None)
    assert (reordered.category_ids, reordered.classes) == (truth.category_ids, truth.classes)
    assert reordered.categories.tolist() == truth.categories.tolist()
