"""Scales, ticks and labels of the report's plots."""

from itertools import combinations

import numpy as np
import pytest

from afictl.comparison.report.plots import Scale, label_places, padded, short, spread, ticks


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("points", [[(100, 100)] * 11, [(20 + k, 60 + 3 * k) for k in range(11)]])
@pytest.mark.parametrize("canvas", [(46, 10, 324, 300), (46, 10, 630, 300)])
def test_labels_cover_no_point_and_no_other_label(points, canvas):
    points = [(x + 40, y) for x, y in points]
    places = label_places(points, [80] * 11, [], canvas)
    assert all(places)
    assert not any(overlap(a, b) for a, b in combinations(places, 2))
    assert not any(overlap(place, (x - 5, y - 5, x + 5, y + 5)) for place in places for x, y in points)
    assert all(canvas[0] <= x0 and canvas[1] <= y0 and x1 <= canvas[2] and y1 <= canvas[3] for x0, y0, x1, y1 in places)


def test_a_lonely_label_stands_at_its_point_and_one_without_room_is_left_out():
    ((x0, y0, x1, y1),) = label_places([(100, 100)], [50], [], (0, 0, 400, 400))
    assert max(x0 - 100, 100 - x1, y0 - 100, 100 - y1) <= 12
    assert label_places([(100, 100)], [500], [], (0, 0, 400, 400)) == [None]


@pytest.mark.parametrize("wanted", [[5, 5, 5, 5], [90, 10, 50, 51], [100, 99, 98, 97], [0] * 40])
def test_spread_keeps_order_gap_and_bounds(wanted):
    places = spread(wanted, 10, 0, 100)
    ordered = sorted(places)
    gap = min(10, 100 / (len(wanted) - 1))
    assert np.diff(ordered).min() >= gap - 1e-6
    assert ordered[0] >= -1e-6
    assert ordered[-1] <= 100 + 1e-6
    by_wish = [places[k] for k in sorted(range(len(wanted)), key=lambda k: wanted[k])]
    assert by_wish == ordered


def test_what_has_room_stays():
    assert spread([10, 40, 80], 10, 0, 100) == [10, 40, 80]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (38.2, 41.9), (0, 90_000), (-3.4, 5), (17.9, 28.3)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high, 5)
    assert 3 <= len(found) <= 8
    assert all(low <= value <= high for value in found)
    assert all(len(short(value)) <= 6 for value in found)


def test_short_numbers():
    assert [short(value) for value in (0.1 + 0.2, 25_000, -2.0, 800)] == ["0.3", "25k", "−2", "800"]  # noqa: RUF001


def test_a_scale_maps_ends_to_ends_and_a_single_value_has_a_range():
    scale = Scale(*padded([40.0]), 0, 100)
    assert scale(40.0) == 50
    assert scale(scale.low) == 0
    assert scale(scale.high) == 100
