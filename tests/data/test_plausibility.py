"""Meaning of boxes and masks by their distribution over a file."""

import numpy as np
import pytest

from afictl.data import load_dataset
from afictl.data.plausibility import (
    describe_areas,
    describe_boxes,
    describe_masks,
    describe_unused_area,
    find_implausible,
    require_plausible,
)
from afictl.errors import UserError

SIZE_HW = (480, 640)


def boxes_xywh(rng, count):
    sides = np.exp(rng.uniform(np.log(15), np.log(300), (count, 2)))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * (np.array(SIZE_HW[::-1]) - sides), sides], axis=1)


def sizes(boxes):
    return np.tile(SIZE_HW, (len(boxes), 1))


def corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


MEANINGS = {
    "fractions": lambda b: b / np.array([640, 480, 640, 480]),
    "fractions of": lambda b: corners(b) / np.array([640, 480, 640, 480]),
    "corners x1, y1, x2, y2": corners,
    "corners y1, x1, y2, x2": lambda b: corners(b)[:, [1, 0, 3, 2]],
    "centre x, y, width, height": lambda b: np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], axis=1),
    "y, x, height, width": lambda b: b[:, [1, 0, 3, 2]],
    "corners x1, x2, y1, y2": lambda b: corners(b)[:, [0, 2, 1, 3]],
    "images of another size": lambda b: b * 3,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [40, 200])
@pytest.mark.parametrize("meaning", MEANINGS)
def test_boxes_of_other_formats_are_recognised(meaning, count, seed):
    boxes = boxes_xywh(np.random.default_rng(seed), count)
    changed = MEANINGS[meaning](boxes)
    if meaning == "y, x, height, width":
        changed[0] = [400, 600, 60, 30]  # below the image, if it were x, y
        changed[1:3] = [[300, 500, 60, 30], [100, 550, 60, 30]]
    assert meaning in describe_boxes(changed, sizes(changed))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 2, 3, 10, 300])
def test_valid_boxes_are_plausible(count, seed):
    """Also with some that reach out of the image, are without area, or lie in its first pixel."""
    rng = np.random.default_rng(seed)
    boxes = boxes_xywh(rng, count)
    boxes[: count // 20] += 300
    boxes[count // 20 : count // 10, 2:] = 0
    boxes[count // 10 : count // 8] = [0, 0, 1, 1]
    assert describe_boxes(boxes, sizes(boxes), boxes[:, 2:].prod(axis=1), corners(boxes)) == ""


def test_boxes_without_a_finite_number_are_plausible():
    assert describe_boxes(np.full((3, 4), np.nan), np.tile(SIZE_HW, (3, 1))) == ""
    assert describe_boxes(np.zeros((0, 4)), np.zeros((0, 2))) == ""


def test_areas_and_masks_reveal_corners_in_the_upper_left():
    """No such box reaches out of its image."""
    boxes = boxes_xywh(np.random.default_rng(0), 10) / 4
    changed = corners(boxes)
    assert describe_boxes(changed, sizes(boxes)) == ""
    assert "corners x1, y1, x2, y2" in describe_boxes(changed, sizes(boxes), boxes[:, 2:].prod(axis=1))
    assert "corners x1, y1, x2, y2" in describe_boxes(changed, sizes(boxes), masks=corners(boxes))


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (lambda b: corners(b) / 4, "0.25 times"),
        (lambda b: corners(b) * (2, 3, 2, 3), "2 x 3 times"),
        (lambda b: corners(b) / (640, 480, 640, 480), "fractions"),
        (lambda b: corners(b)[:, [1, 0, 3, 2]], "y, x instead of x, y"),
        (lambda b: corners(b)[::-1], "do not lie in their boxes"),
    ],
)
def test_masks_that_do_not_belong_to_their_boxes_are_recognised(change, meaning):
    boxes = boxes_xywh(np.random.default_rng(1), 40)
    assert meaning in describe_masks(boxes, change(boxes))


def test_masks_in_loose_or_missing_boxes_are_plausible():
    boxes = boxes_xywh(np.random.default_rng(2), 40)
    inner = corners(boxes) + np.array([0.1, 0.1, -0.1, -0.1]) * np.tile(boxes[:, 2:], 2)
    inner[::3] = np.nan
    inner[1::5] = corners(boxes)[::-1][1::5]  # some are wrong
    assert describe_masks(boxes, inner) == ""


@pytest.mark.parametrize(
    ("scale", "meaning"), [(0, "are 0"), (1 / 640 / 480, "fractions"), (4, "larger than their boxes"), (0.5, "")]
)
def test_areas_of_another_unit_are_noticed(scale, meaning):
    boxes = boxes_xywh(np.random.default_rng(4), 20)
    areas = boxes[:, 2:].prod(axis=1) * scale
    areas[0] = np.nan
    text = describe_areas(boxes, areas)
    assert meaning in text
    assert bool(text) == bool(meaning)


def test_boxes_in_one_part_of_all_images_are_noticed():
    boxes = boxes_xywh(np.random.default_rng(3), 100)
    percent = boxes / np.array([6.4, 4.8, 6.4, 4.8])
    assert "percent" in describe_unused_area(percent, sizes(percent))
    assert "smaller images" in describe_unused_area(boxes / 2.5, sizes(boxes))
    assert describe_unused_area(boxes, sizes(boxes)) == ""
    assert describe_unused_area(percent[:20], sizes(percent[:20])) == ""


def test_a_dataset_is_refused_by_file_and_meaning(write_coco, shapes_dir):
    boxes = [[2, 3, 20, 15], [30, 5, 25, 20], [8, 20, 30, 24], [40, 28, 20, 18]]
    objects = [{"bbox": [x, y, x + w, y + h], "segmentation": []} for x, y, w, h in boxes]
    with pytest.raises(UserError, match=r"instances_train\.json: boxes look like corners.*data check"):
        require_plausible(load_dataset(write_coco(objects), "train"), masks=False)
    objects = [{"bbox": box, "segmentation": [[0.1, 0.1, 0.9, 0.1, 0.5, 0.9]]} for box in boxes]
    dataset = load_dataset(write_coco(objects), "train")
    require_plausible(dataset, masks=False)
    with pytest.raises(UserError, match="fractions"):
        require_plausible(dataset, masks=True)
    assert find_implausible(load_dataset(shapes_dir, "train")) == ("", "")
