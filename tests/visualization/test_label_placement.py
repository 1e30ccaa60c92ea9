"""Labels stay inside the picture and do not overlap."""

import numpy as np
import pytest

from afictl.visualization.label_placement import place_labels

CANVAS = (200.0, 120.0)


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((50, 60, 90, 100), (50, 48, 80, 60)),  # room above
        ((50, 0, 90, 60), (50, 0, 80, 12)),  # at the top: inside
        ((50, 0, 90, 20), (50, 20, 80, 32)),  # at the top and too low for a label inside: below
        ((190, 60, 200, 100), (170, 48, 200, 60)),  # at the right edge: moved to the left
        ((-5, 60, 10, 100), (0, 48, 30, 60)),  # beyond the left edge
    ],
)
def test_a_single_label_is_placed_at_its_box(box, expected):
    assert place_labels([box], [[(30, 12)]], CANVAS) == [(0, expected)]


def test_later_labels_move_and_then_are_shortened():
    box = (0.0, 50.0, 60.0, 60.0)
    first, second, third = place_labels([box] * 3, [[(200, 40), (20, 10)]] * 3, CANVAS)
    assert first == (0, (0, 10, 200, 50))
    assert second == (0, (0, 60, 200, 100))
    assert third is None  # the short form fits only at the other labels
    _, narrow = place_labels([box] * 2, [[(200, 50)], [(200, 80), (20, 10)]], CANVAS)
    assert narrow == (1, (0, 60, 20, 70))


def test_label_larger_than_the_picture_is_not_placed():
    assert place_labels([(10, 10, 20, 20)], [[(30, 500)]], CANVAS) == [None]
    assert place_labels([(10, 40, 20, 50)], [[(201, 12)]], CANVAS) == [None]


def test_label_wider_than_the_picture_is_shortened():
    assert place_labels([(10, 40, 20, 50)], [[(201, 12), (30, 12)]], CANVAS) == [(1, (10, 28, 40, 40))]


def test_a_label_does_not_hide_a_small_object():
    large, small = (20.0, 60.0, 120.0, 110.0), (22.0, 48.0, 32.0, 58.0)
    (_, rectangle), _ = place_labels([large, small], [[(30, 12)], [(30, 12)]], CANVAS)
    assert not overlap(rectangle, small)
    assert place_labels([large], [[(30, 12)]], CANVAS) == [(0, (20, 48, 50, 60))]  # without the small object


def test_no_part_of_an_object_that_is_smaller_than_the_label_is_covered():
    box, neighbour = (50.0, 60.0, 60.0, 66.0), (76.0, 40.0, 90.0, 49.0)  # a corner of it, less than a fifth
    (_, rectangle), _ = place_labels([box, neighbour], [[(30, 12)], []], CANVAS)
    assert rectangle == (30, 48, 60, 60)


def test_a_low_box_between_others_has_its_label_at_a_side():
    box, above, below = (50.0, 60.0, 60.0, 66.0), (20.0, 50.0, 90.0, 59.0), (20.0, 67.0, 90.0, 76.0)
    assert place_labels([box, above, below], [[(30, 8)], [], []], CANVAS)[0] == (0, (60, 59, 90, 67))


def test_a_label_may_cover_a_part_of_a_large_object():
    first, second = (0.0, 60.0, 100.0, 110.0), (0.0, 5.0, 150.0, 119.0)
    assert place_labels([first, second], [[(30, 12)], []], CANVAS)[0] == (0, (0, 48, 30, 60))


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_a_crowd_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-10, [*CANVAS], (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 80, (60, 2))], axis=1).tolist()
    labels = [p for p in place_labels(boxes, [[(40.0, 9.0), (15.0, 9.0)]] * 60, CANVAS) if p is not None]
    assert len(labels) > 10
    for i, (_, a) in enumerate(labels):
        assert a[0] >= 0
        assert a[1] >= 0
        assert a[2] <= CANVAS[0]
        assert a[3] <= CANVAS[1]
        assert not any(overlap(a, b) for _, b in labels[:i])
