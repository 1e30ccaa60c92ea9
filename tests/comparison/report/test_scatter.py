"""Accuracy against cost: where labels stand, and that they have room for the marker of their point."""

from dataclasses import replace
from itertools import combinations

import pytest

from afictl.comparison.report.plots import text_width
from afictl.comparison.report.scatter import scatter_panes
from tests.helpers.comparisons import NAMES, make_comparison, make_cost


@pytest.fixture(scope="module")
def crowd(shapes_dir, tmp_path_factory):
    """Eleven methods of nearly the same accuracy, ten of them at the same price."""
    comparison = make_comparison(shapes_dir, tmp_path_factory.mktemp("crowd"), NAMES, seeds=1, masks=False)
    methods = [
        replace(method, mean={"box/AP": 52 + 0.1 * (k % 5)}, cost=make_cost(10 if k == 10 else 0))
        for k, method in enumerate(comparison.methods)
    ]
    return replace(comparison, methods=tuple(methods))


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_every_method_of_a_crowd_has_a_label_of_its_own(crowd, width):
    for _, plots in scatter_panes(crowd):
        for _, plot in plots:
            marks = plot[width].marks
            assert [mark.name for mark in marks] == list(NAMES)
            places = [mark.place for mark in marks]
            assert all(places)
            assert not any(
                a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in combinations(places, 2)
            )
            for mark in marks:  # 17 pixels before the name: for the marker and its margins
                assert mark.place[2] - mark.place[0] >= text_width(mark.label) + 17


def test_a_label_near_its_point_has_no_leader_and_one_far_away_has(crowd):
    ((_, plots), *_) = scatter_panes(crowd)
    marks = plots[0][1]["wide"].marks
    far = [mark for mark in marks if mark.leader]
    assert 0 < len(far) < len(marks)
    for mark in far:
        x0, y0, x1, y1 = mark.place
        assert x0 - 0.1 <= mark.leader[0] <= x1 + 0.1
        assert y0 - 0.1 <= mark.leader[1] <= y1 + 0.1
