"""Colours and marks of methods."""

import pytest

from afictl.comparison.report.style import DARK, contrast, dash, hue, marker, readable
from afictl.visualization.palette import PAPER, class_color


def test_contrast_of_black_on_white():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x77, 0x77, 0x77), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # the textbook's example


@pytest.mark.parametrize("background", [PAPER, DARK])
def test_every_colour_can_be_seen(background):
    assert all(contrast(readable(class_color(label), background), background) >= 3 for label in range(1, 8))


def test_thirty_methods_differ_in_more_than_colour():
    looks = [(hue(k), marker(k)) for k in range(31)]
    assert len(set(looks)) == 31
    lines = [(hue(k), dash(k)) for k in range(19)]
    assert len(set(lines)) == 19
