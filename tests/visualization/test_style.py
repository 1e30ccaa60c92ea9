"""Colours that can be told apart, and text that fits."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from afictl.visualization.style import INK, PAPER, class_color, class_colors, fit_text, text_color, text_width, write


def ink(text, size=20):
    """Where ``text`` is dark, written in the middle of 60 lines of 300 pixels from column 10."""
    picture = Image.new("RGB", (300, 60), PAPER)
    write(ImageDraw.Draw(picture), (10, 30), text, size, INK)
    return np.asarray(picture.convert("L")) < 128


def test_the_first_seven_classes_keep_their_own_colours():
    assert class_colors(range(1, 8)) == {label: class_color(label) for label in range(1, 8)}
    assert class_color(1) == (230, 159, 0)
    assert len({class_color(label) for label in range(1, 8)}) == 7


@pytest.mark.parametrize("labels", [[1, 8, 15, 22], range(1, 22), [3, 80, 44, 3, 10]])
def test_colours_within_a_picture_differ(labels):
    colors = class_colors(labels)
    assert set(colors) == set(labels)
    assert len(set(colors.values())) == len(colors)


def test_more_classes_than_colours():
    assert len(class_colors(range(1, 100))) == 99


@pytest.mark.parametrize("label", range(1, 8))
def test_text_is_readable_on_every_colour(label):
    """WCAG's contrast ratio for large text is 3."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(class_color(label)), luminance(text_color(class_color(label)))))
    assert (light + 0.05) / (dark + 0.05) > 3


def test_long_names_lose_their_middle():
    shown = fit_text("mask-rcnn-r50-fpn-with-a-very-long-name", 20, 150)
    assert text_width(shown, 20) <= 150
    assert shown.startswith("mask")
    assert shown.endswith("name")
    assert "…" in shown
    assert fit_text("short", 20, 150) == "short"


def test_letters_of_other_alphabets_are_no_boxes(install):
    letters = "aäßéñœжяωΩ≠"
    assert len({ink(letter).tobytes() for letter in letters}) == len(letters)


@pytest.mark.parametrize("text", ["RBC 0.53", "Zellkörper", "红红 0.5", "ж红…红", "two\nlines", "not \udcff UTF-8", ""])
@pytest.mark.parametrize("installed", [True, False])
def test_text_is_as_wide_as_it_was_measured(text, installed, squares, install):
    if installed:
        install(squares("红"))
    columns = np.flatnonzero(ink(text).any(axis=0))
    if text:
        assert columns[0] >= 9
        assert columns[-1] == pytest.approx(10 + text_width(text, 20), abs=4)
    assert text_width(text, 40) == pytest.approx(2 * text_width(text, 20), abs=len(text))


def test_an_installed_font_stands_on_the_same_line(squares, install):
    install(squares("红"))
    assert text_width("红红 5", 20) == 40 + text_width(" 5", 20)
    square, letter = ink("红"), ink("E")
    assert square[:, 10:30].sum() == 20 * 16
    assert np.flatnonzero(square.any(axis=1))[-1] == np.flatnonzero(letter.any(axis=1))[-1]
    assert fit_text("红" * 20, 20, 150) == "红红红…红红红"


def test_text_stands_in_the_middle():
    rows = np.flatnonzero(ink("E").any(axis=1))
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(30, abs=1.5)
