"""Fonts of characters, and text that fits its width."""

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw

from afictl.visualization.palette import INK, PAPER
from afictl.visualization.text import (
    draw_text,
    fit_text,
    font_families,
    parts_by_font,
    plain_font,
    plain_line,
    text_width,
)


def ink(text, size=20):
    """(60, 300) bool: the dark pixels of ``text``, written in the vertical middle from column 10."""
    picture = Image.new("RGB", (300, 60), PAPER)
    draw_text(ImageDraw.Draw(picture), (10, 30), text, size, INK)
    return np.asarray(picture.convert("L")) < 128


@pytest.mark.parametrize("text", ["RBC 0.53", "Zellkörper ß", "año, œil", "эритроцит", "ερυθρό", "a ≠ b … ★"])
def test_european_names_need_no_installed_font(text, monkeypatch, install):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("searched installed fonts"))
    assert parts_by_font(text) == [(plain_font(), text)]
    assert font_families([text]) == ["DejaVu Sans"]


def test_an_installed_font_draws_characters_that_dejavu_lacks(squares, install):
    file = squares("红细 ")
    install(file)
    assert parts_by_font("红细 0.5") == [(str(file), "红细"), (plain_font(), " 0.5")]
    assert font_families(["cell", "红", "细"]) == ["DejaVu Sans", str(file)]


def test_without_such_a_font_dejavu_draws_a_box(install):
    assert parts_by_font("红 0.5") == [(plain_font(), "红 0.5")]
    assert font_families(["红"]) == ["DejaVu Sans"]


def test_upright_fonts_with_many_characters_come_first(squares, install):
    small, large, bold = squares("红", "A"), squares("红细", "B"), squares("红细胞", "C", "Bold")
    install(bold, small, large)
    assert parts_by_font("红细胞") == [(str(large), "红细"), (str(bold), "胞")]


def test_broken_and_placeholder_fonts_are_skipped(tmp_path, squares, install):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    file = squares("红")
    install(broken, tmp_path / "gone.ttf", squares("红细胞", ".Last Resort"), file)
    assert parts_by_font("红细") == [(str(file), "红"), (plain_font(), "细")]


def test_decomposed_names_and_line_ends():
    assert plain_line("Zellko\u0308rper\nB\t1") == "Zellkörper B 1"


def test_long_names_lose_their_middle():
    shortened = fit_text("mask-rcnn-r50-fpn-with-a-very-long-name", 20, 150)
    assert text_width(shortened, 20) <= 150
    assert shortened.startswith("mask")
    assert shortened.endswith("name")
    assert "…" in shortened
    assert fit_text("short", 20, 150) == "short"


def test_letters_of_other_alphabets_differ(install):
    letters = "aäßéñœжяωΩ≠"
    assert len({ink(letter).tobytes() for letter in letters}) == len(letters)


@pytest.mark.parametrize("text", ["RBC 0.53", "Zellkörper", "红红 0.5", "ж红…红", "two\nlines", "not \udcff UTF-8", ""])
@pytest.mark.parametrize("installed", [True, False])
def test_text_has_its_measured_width(text, installed, squares, install):
    if installed:
        install(squares("红"))
    columns = np.flatnonzero(ink(text).any(axis=0))
    if text:
        assert columns[0] >= 9
        assert columns[-1] == pytest.approx(10 + text_width(text, 20), abs=4)
    assert text_width(text, 40) == pytest.approx(2 * text_width(text, 20), abs=len(text))


def test_all_fonts_of_a_line_have_one_baseline(squares, install):
    install(squares("红"))
    assert text_width("红红 5", 20) == 40 + text_width(" 5", 20)
    square, letter = ink("红"), ink("E")
    assert square[:, 10:30].sum() == 20 * 16
    assert np.flatnonzero(square.any(axis=1))[-1] == np.flatnonzero(letter.any(axis=1))[-1]
    assert fit_text("红" * 20, 20, 150) == "红红红…红红红"


def test_text_is_vertically_centred():
    rows = np.flatnonzero(ink("E").any(axis=1))
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(30, abs=1.5)
