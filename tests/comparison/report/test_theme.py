"""Colours, markers and dashes of methods."""

import pytest

from afictl.comparison.report.theme import DARK, color_class, contrast, dash_pattern, ensure_contrast, marker_path
from afictl.visualization.palette import PAPER, class_color


def test_contrast_of_black_on_white():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x77, 0x77, 0x77), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # a known value


@pytest.mark.parametrize("background", [PAPER, DARK])
def test_every_colour_has_enough_contrast(background):
    assert all(contrast(ensure_contrast(class_color(label), background), background) >= 3 for label in range(1, 8))


def test_thirty_methods_differ_in_more_than_colour():
    appearances = [(color_class(k), marker_path(k)) for k in range(31)]
    assert len(set(appearances)) == 31
    lines = [(color_class(k), dash_pattern(k)) for k in range(19)]
    assert len(set(lines)) == 19
