"""Generated fonts, independent of those of the machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from afictl.visualization import text


@pytest.fixture
def install(monkeypatch) -> Iterator[Callable[..., None]]:
    """A function that makes font files the only installed ones; before its call there are none."""
    caches = text._installed_characters
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))

    def install(*files: Path) -> None:
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(file) for file in files])
        caches.cache_clear()

    install()
    yield install
    caches.cache_clear()


@pytest.fixture
def squares(tmp_path) -> Callable[..., Path]:
    """A function that builds a font with a black square of one em for each of its characters."""

    def build(characters: str, family: str = "Squares", style: str = "Regular", weight: int = 400) -> Path:
        pen = TTGlyphPen(None)
        for move, point in zip(
            [pen.moveTo] + [pen.lineTo] * 3, [(0, 0), (0, 800), (1000, 800), (1000, 0)], strict=True
        ):
            move(point)
        pen.closePath()
        square, glyphs = pen.glyph(), [".notdef", *(f"u{ord(c):04X}" for c in characters)]
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(glyphs)
        builder.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in characters})
        builder.setupGlyf(dict.fromkeys(glyphs, square))
        builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
        builder.setupHorizontalHeader(ascent=880, descent=-120)
        builder.setupNameTable(
            {"familyName": family, "styleName": style, "psName": f"{family}-{style}".replace(" ", "")}
        )
        builder.setupOS2(usWeightClass=weight)
        builder.setupPost()
        path = tmp_path / f"{family}-{style}.ttf"
        builder.save(path)
        return path

    return build
