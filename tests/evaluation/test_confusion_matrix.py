"""Confusion matrix: counts of matches by class."""

import json

import numpy as np
import pytest

from afictl.data.formats.coco import load_coco_file
from afictl.evaluation.confusion_matrix import compute_confusion

LEFT, RIGHT, FAR = [10, 10, 20, 20], [50, 10, 20, 20], [10, 60, 30, 30]


@pytest.fixture
def confusion(tmp_path):
    def _confusion(objects, detections, score=0.3):
        truth = {
            "images": [{"id": k, "file_name": f"{k}.jpg", "height": 100, "width": 100} for k in (5, 6)],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": [
                {"id": k, "image_id": 5, "category_id": c, "bbox": b, "iscrowd": crowd}
                for k, (c, b, crowd) in enumerate(objects)
            ],
        }
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        results = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in detections]
        (tmp_path / "predictions.json").write_text(json.dumps(results))
        result = compute_confusion(
            tmp_path / "predictions.json", load_coco_file(tmp_path / "truth.json", tmp_path), score=score
        )
        assert result.classes == ("dog", "cat")  # in the order of their ids
        return result.counts.tolist()

    return _confusion


DOG, CAT = 3, 7
ON_FAR = [12, 62, 9, 9]


@pytest.mark.parametrize(
    ("objects", "detections", "expected"),
    [
        pytest.param(
            [(DOG, LEFT, 0), (CAT, RIGHT, 0), (CAT, FAR, 0)],
            [(5, DOG, LEFT, 0.9), (5, DOG, RIGHT, 0.8)],
            [[1, 0, 0], [1, 0, 1], [0, 0, 0]],
            id="detected, confused, missed",
        ),
        pytest.param(
            [(DOG, LEFT, 0)],
            [(5, CAT, FAR, 0.9), (6, DOG, LEFT, 0.9), (5, DOG, LEFT, 0.2)],
            [[0, 0, 1], [0, 0, 0], [1, 1, 0]],
            id="no object, other image, low score",
        ),
        pytest.param(
            [(DOG, LEFT, 0)],
            [(5, DOG, LEFT, 0.5), (5, CAT, LEFT, 0.6)],
            [[0, 1, 0], [0, 0, 0], [1, 0, 0]],
            id="the higher score matches the object",
        ),
        pytest.param(
            [(CAT, LEFT, 0), (DOG, LEFT, 0)],
            [(5, DOG, LEFT, 0.5)],
            [[1, 0, 0], [0, 0, 1], [0, 0, 0]],
            id="equal IoU: the object of the same class",
        ),
        pytest.param(
            [(DOG, FAR, 1)],
            [(5, DOG, ON_FAR, 0.5), (5, CAT, ON_FAR, 0.5)],
            [[0, 0, 0], [0, 0, 0], [0, 1, 0]],
            id="ignored on a crowd of the same class only",
        ),
        pytest.param(
            [(DOG, LEFT, 0)],
            [(5, DOG, [20, 10, 20, 20], 0.5)],
            [[0, 0, 1], [0, 0, 0], [1, 0, 0]],
            id="IoU too small",
        ),
        pytest.param([], [], [[0, 0, 0]] * 3, id="empty"),
    ],
)
def test_small_confusion_matrices(confusion, objects, detections, expected):
    assert confusion(objects, detections) == expected


def test_every_object_and_every_detection_is_counted_once(confusion):
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 60, (40, 2)), rng.integers(10, 40, (40, 2))], axis=1).tolist()
    objects = [(int(rng.choice([DOG, CAT])), box, 0) for box in boxes]
    detections = [(5, int(rng.choice([DOG, CAT])), box, float(rng.random())) for box in [*boxes[::2], *boxes[::3]]]
    counts = np.array(confusion(objects, detections, score=0.0))
    assert counts[:-1].sum() == len(objects)
    assert counts[:, :-1].sum() == len(detections)
    assert counts[-1, -1] == 0
