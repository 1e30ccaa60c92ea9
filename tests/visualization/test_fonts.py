"""The font of each character: DejaVu where it has it, else an installed one, and a box where there is none."""

import pytest
from matplotlib import font_manager

from afictl.visualization.fonts import font_families, one_line, parts_by_font, plain_font


@pytest.mark.parametrize("text", ["RBC 0.53", "Zellkörper ß", "año, œil", "эритроцит", "ερυθρό", "a ≠ b … ★"])
def test_european_names_need_no_installed_font(text, monkeypatch, install):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("looked for installed fonts"))
    assert parts_by_font(text) == [(plain_font(), text)]
    assert font_families([text]) == ["DejaVu Sans"]


def test_an_installed_font_draws_what_it_alone_has(squares, install):
    file = squares("红细 ")
    install(file)
    assert parts_by_font("红细 0.5") == [(str(file), "红细"), (plain_font(), " 0.5")]
    assert font_families(["cell", "红", "细"]) == ["DejaVu Sans", str(file)]


def test_without_such_a_font_the_plain_one_draws_a_box(install):
    assert parts_by_font("红 0.5") == [(plain_font(), "红 0.5")]
    assert font_families(["红"]) == ["DejaVu Sans"]


def test_upright_fonts_with_many_characters_come_first(squares, install):
    small, large, bold = squares("红", "A"), squares("红细", "B"), squares("红细胞", "C", "Bold")
    install(bold, small, large)
    assert parts_by_font("红细胞") == [(str(large), "红细"), (str(bold), "胞")]


def test_files_that_help_nobody_are_passed_over(tmp_path, squares, install):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    file = squares("红")
    install(broken, tmp_path / "gone.ttf", squares("红细胞", ".Last Resort"), file)
    assert parts_by_font("红细") == [(str(file), "红"), (plain_font(), "细")]


def test_decomposed_names_and_line_ends():
    assert one_line("Zellko\u0308rper\nB\t1") == "Zellkörper B 1"
