"""Disagreement of hand-made detections."""

import random
from itertools import combinations

import numpy as np
import pytest

from afictl.visualization.disagreement import DetectionArrays, count_missing, disagreement_score, rank_by_disagreement

BOX = [10, 10, 40, 40]
NEAR = [12, 10, 40, 40]  # IoU 0.905
FAR = [35, 10, 40, 40]  # IoU 0.23
HALF = [10, 10, 20, 40]  # IoU 0.5 exactly


def result(image, box, score, category=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([result(7, BOX, 0.9)], [result(7, BOX, 0.9)], 0),
        ([result(7, BOX, 0.9)], [result(7, NEAR, 0.6)], 0),
        ([result(7, BOX, 0.9)], [result(7, HALF, 0.6)], 0),
        ([result(7, BOX, 0.9)], [], 1),
        ([result(7, BOX, 0.4)], [], 0),  # not drawn
        ([result(7, BOX, 0.9)], [result(7, BOX, 0.3)], 0),  # a partner below the threshold
        ([result(7, BOX, 0.9)], [result(7, BOX, 0.2)], 1),
        ([result(7, BOX, 0.9)], [result(7, FAR, 0.9)], 2),
        ([result(7, BOX, 0.9)], [result(7, BOX, 0.9, category=2)], 2),
        ([result(7, BOX, 0.9), result(7, NEAR, 0.8)], [result(7, BOX, 0.9)], 0),  # one partner of both
        ([result(7, BOX, 0.9)], [result(8, BOX, 0.9)], 1),  # images are separate
    ],
)
def test_disagreement_of_two_methods_counts_unmatched_detections(first, second, expected):
    for predictions in ({"a": first, "b": second}, {"b": second, "a": first}):
        assert dict(rank_by_disagreement(predictions)).get(7, 0) == expected


def test_disagreement_is_the_mean_over_pairs():
    """Two of three pairs differ in the object that the third method misses."""
    detections = [result(1, BOX, 0.9)]
    assert rank_by_disagreement({"a": detections, "b": detections, "c": []}) == [(1, pytest.approx(2 / 3))]


def test_images_are_ranked_by_disagreement_then_id():
    a = [result(5, BOX, 0.9), result(3, BOX, 0.9), result(3, FAR, 0.9), result(4, BOX, 0.9), result(1, BOX, 0.9)]
    b = [result(1, BOX, 0.9)]
    assert rank_by_disagreement({"a": iter(a), "b": iter(b)}) == [(3, 2.0), (4, 1.0), (5, 1.0)]
    assert rank_by_disagreement({"a": a, "b": b}, threshold=0.95) == []
    assert rank_by_disagreement({"a": [], "b": []}) == []


def test_disagreement_equals_that_of_a_plain_loop():
    rng = random.Random(0)
    methods = [
        [
            result(1, [rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(5, 40), rng.uniform(5, 40)], rng.random(), c)
            for _ in range(20)
            for c in (1, 2)
        ]
        for _ in range(4)
    ]

    def iou(a, b):
        width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        common = max(width, 0) * max(height, 0)
        return common / (a[2] * a[3] + b[2] * b[3] - common)

    def count_unshared(detections, other):
        return sum(
            not any(
                d["category_id"] == e["category_id"] and e["score"] >= 0.2 and iou(d["bbox"], e["bbox"]) >= 0.5
                for e in other
            )
            for d in detections
            if d["score"] >= 0.4
        )

    pairs = [count_unshared(a, b) + count_unshared(b, a) for a, b in combinations(methods, 2)]
    ((_, score),) = rank_by_disagreement(dict(zip("abcd", methods, strict=True)), threshold=0.4)
    assert score == pytest.approx(sum(pairs) / len(pairs))
    assert score > 0


def test_missing_detections_are_counted_per_method_and_class():
    """The second box of the first method has partners, one of them below the threshold; the third is not drawn."""

    def detections(*scores):
        boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], dtype=float)[: len(scores)]
        return DetectionArrays(boxes, np.ones(len(scores)), np.array(scores))

    counts = count_missing([detections(0.9, 0.8, 0.4), detections(0.1, 0.3), detections(0.2, 0.9)], 0.5)
    assert [values.tolist() for values in counts] == [[2, 0, 0], [0, 0], [0, 0]]
    counts = count_missing([detections(0.9, 0.8), detections(0.1, 0.3), detections()], 0.5, [[1], [2, 1], [2]])
    assert [values.tolist() for values in counts] == [[1, 0], [0, 0], []]


def test_one_method_is_an_error():
    empty = DetectionArrays(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="methods"):
        disagreement_score([empty], 0.5)
    assert disagreement_score([empty, empty], 0.5) == 0
