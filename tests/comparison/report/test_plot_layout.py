"""Scales, ticks and labels of the report's plots."""

from itertools import combinations

import numpy as np
import pytest

from afictl.comparison.report.plot_layout import Scale, distribute, padded_range, place_point_labels, tick_label, ticks


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("points", [[(100, 100)] * 11, [(20 + k, 60 + 3 * k) for k in range(11)]])
@pytest.mark.parametrize("canvas", [(46, 10, 324, 300), (46, 10, 630, 300)])
def test_labels_cover_no_point_and_no_other_label(points, canvas):
    points = [(x + 40, y) for x, y in points]
    labels = place_point_labels(points, [80] * 11, [], canvas)
    assert all(labels)
    assert not any(overlap(a, b) for a, b in combinations(labels, 2))
    assert not any(overlap(label, (x - 5, y - 5, x + 5, y + 5)) for label in labels for x, y in points)
    assert all(canvas[0] <= x0 and canvas[1] <= y0 and x1 <= canvas[2] and y1 <= canvas[3] for x0, y0, x1, y1 in labels)


def test_a_single_label_is_near_its_point_and_one_without_room_is_omitted():
    ((x0, y0, x1, y1),) = place_point_labels([(100, 100)], [50], [], (0, 0, 400, 400))
    assert max(x0 - 100, 100 - x1, y0 - 100, 100 - y1) <= 12
    assert place_point_labels([(100, 100)], [500], [], (0, 0, 400, 400)) == [None]


@pytest.mark.parametrize("targets", [[5, 5, 5, 5], [90, 10, 50, 51], [100, 99, 98, 97], [0] * 40])
def test_distribute_keeps_order_gap_and_bounds(targets):
    positions = distribute(targets, 10, 0, 100)
    ordered = sorted(positions)
    gap = min(10, 100 / (len(targets) - 1))
    assert np.diff(ordered).min() >= gap - 1e-6
    assert ordered[0] >= -1e-6
    assert ordered[-1] <= 100 + 1e-6
    by_target = [positions[k] for k in sorted(range(len(targets)), key=lambda k: targets[k])]
    assert by_target == ordered


def test_distribute_keeps_targets_that_are_far_apart():
    assert distribute([10, 40, 80], 10, 0, 100) == [10, 40, 80]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (38.2, 41.9), (0, 90_000), (-3.4, 5), (17.9, 28.3)])
def test_ticks_are_round_and_inside(low, high):
    values = ticks(low, high, 5)
    assert 3 <= len(values) <= 8
    assert all(low <= value <= high for value in values)
    assert all(len(tick_label(value)) <= 6 for value in values)


def test_tick_labels_are_short():
    assert [tick_label(value) for value in (0.1 + 0.2, 25_000, -2.0, 800)] == ["0.3", "25k", "−2", "800"]  # noqa: RUF001


def test_a_single_value_is_in_the_middle_of_its_scale():
    scale = Scale(*padded_range([40.0]), 0, 100)
    assert scale(40.0) == 50
    assert scale(scale.low) == 0
    assert scale(scale.high) == 100


def test_a_range_of_accuracies_or_costs_has_no_negative_numbers():
    assert padded_range([0.1, 0.2]) == pytest.approx((0.0, 1.16))
    assert padded_range([-0.1, 0.2])[0] < -0.1
