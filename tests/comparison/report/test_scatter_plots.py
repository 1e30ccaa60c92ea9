"""Labels of the scatter plots: position, and room for the marker."""

from dataclasses import replace
from itertools import combinations

import pytest

from afictl.comparison.report.plot_layout import FONT_PX
from afictl.comparison.report.scatter_plots import plot_accuracy_against_costs
from afictl.visualization.text import text_width
from tests.helpers.comparisons import NAMES, make_comparison, make_cost


@pytest.fixture(scope="module")
def crowd(shapes_dir, tmp_path_factory):
    """Eleven methods of nearly the same accuracy, ten of them at the same cost."""
    comparison = make_comparison(shapes_dir, tmp_path_factory.mktemp("crowd"), NAMES, seeds=1, masks=False)
    methods = [
        replace(method, mean={"box/AP": 52 + 0.1 * (k % 5)}, cost=make_cost(10 if k == 10 else 0))
        for k, method in enumerate(comparison.methods)
    ]
    return replace(comparison, methods=tuple(methods))


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_labels_of_a_crowd_do_not_overlap(crowd, width):
    for _, plots in plot_accuracy_against_costs(crowd):
        for _, plot in plots:
            points = plot[width].points
            assert [point.name for point in points] == list(NAMES)
            labels = [point.label_box for point in points]
            assert all(labels)
            assert not any(
                a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in combinations(labels, 2)
            )
            for point in points:  # 17 pixels before the name for the marker and its margins
                assert point.label_box[2] - point.label_box[0] >= text_width(point.label, FONT_PX) + 17


def test_only_distant_labels_have_a_leader(crowd):
    ((_, plots), *_) = plot_accuracy_against_costs(crowd)
    points = plots[0][1]["wide"].points
    distant = [point for point in points if point.leader]
    assert 0 < len(distant) < len(points)
    for point in distant:
        x0, y0, x1, y1 = point.label_box
        assert x0 - 0.1 <= point.leader[0] <= x1 + 0.1
        assert y0 - 0.1 <= point.leader[1] <= y1 + 0.1
