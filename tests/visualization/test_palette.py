"""Colours that differ, and text that is readable on them."""

import pytest

from afictl.visualization.palette import class_color, class_colors, text_color


def test_the_first_seven_classes_have_their_default_colours():
    assert class_colors(range(1, 8)) == {label: class_color(label) for label in range(1, 8)}
    assert class_color(1) == (230, 159, 0)
    assert len({class_color(label) for label in range(1, 8)}) == 7


@pytest.mark.parametrize("labels", [[1, 8, 15, 22], range(1, 22), [3, 80, 44, 3, 10]])
def test_colours_within_a_picture_differ(labels):
    colors = class_colors(labels)
    assert set(colors) == set(labels)
    assert len(set(colors.values())) == len(colors)


def test_more_classes_than_colours_all_get_one():
    assert len(class_colors(range(1, 100))) == 99


@pytest.mark.parametrize("label", range(1, 8))
def test_text_is_readable_on_every_colour(label):
    """WCAG's contrast ratio for large text is 3."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(class_color(label)), luminance(text_color(class_color(label)))))
    assert (light + 0.05) / (dark + 0.05) > 3
