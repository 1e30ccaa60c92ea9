"""Text in pictures, drawn in DejaVu Sans (included in matplotlib), with installed fonts as fallback.

DejaVu Sans has Latin, Cyrillic, Greek, Hebrew, Arabic and many symbols; installed fonts are opened only for characters
that it lacks. Characters that no font has are drawn as a box.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

from afictl.visualization.palette import Color

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

_PLAIN_STYLES = ("regular", "book", "roman", "normal")
_PLACEHOLDERS = ("lastresort", "adobeblank", "adobenotdef")
"""Families that map every character to an empty or placeholder glyph."""


@lru_cache(maxsize=1)
def plain_font() -> str:
    """Path of DejaVu Sans."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def plain_line(text: str) -> str:
    """Normalise ``text`` to NFC, which most fonts need, and replace control characters by spaces."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", unicodedata.normalize("NFC", text))


def parts_by_font(text: str) -> list[tuple[str, str]]:
    """Split ``text`` into runs of one font: pairs of font file and text."""
    if text.isascii():
        return [(plain_font(), text)]
    return [(file, "".join(part)) for file, part in groupby(text, _font_file)]


def font_families(texts: Iterable[str]) -> list[str]:
    """Font families of matplotlib for ``texts``, in order of preference."""
    files = dict.fromkeys(file for text in texts for file, _ in parts_by_font(text))
    return ["DejaVu Sans", *(_register_family(file) for file in files if file != plain_font())]


@lru_cache(maxsize=64)
def font(size: int, file: str | None = None) -> ImageFont.FreeTypeFont:
    """The font of ``file``, by default DejaVu Sans; ``size`` in pixels."""
    return ImageFont.truetype(file or plain_font(), size)


def text_width(text: str, size: int) -> float:
    """Width in pixels of ``text`` as ``draw_text`` draws it."""
    return sum(font(size, file).getlength(part) for file, part in parts_by_font(plain_line(text)))


def draw_text(pen: ImageDraw.ImageDraw, left_middle: tuple[float, float], text: str, size: int, color: Color) -> None:
    """Draw one line of text whose left edge and vertical middle are at ``left_middle``."""
    x, y = left_middle
    ascent, descent = font(size).getmetrics()
    baseline = round(y + (ascent - descent) / 2)  # of all fonts of the line
    for file, part in parts_by_font(plain_line(text)):
        pen.text((x, baseline), part, fill=color, font=font(size, file), anchor="ls")
        x += font(size, file).getlength(part)


def fit_text(text: str, size: int, width: float) -> str:
    """``text``, its middle replaced by an ellipsis where it is wider than ``width`` pixels."""
    length, shortened = len(text), text
    while text_width(shortened, size) > width and length > 2:
        length -= 1
        shortened = f"{text[: (length + 1) // 2]}…{text[len(text) - length // 2 :]}"
    return shortened


def _font_file(character: str) -> str:
    if ord(character) in _plain_characters():
        return plain_font()
    return _installed_characters().get(ord(character), plain_font())


@lru_cache(maxsize=1)
def _plain_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(plain_font()).get_charmap())


@lru_cache(maxsize=1)
def _installed_characters() -> dict[int, str]:
    """Font file by code point, for all characters of installed fonts that DejaVu Sans lacks.

    Upright fonts of regular weight come first, and of those the ones with the most glyphs, so that few fonts draw a
    text. The files are searched again, as matplotlib's cached list lacks fonts installed later.
    """
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    ranked = []
    for file in findSystemFonts():
        with suppress(OSError, RuntimeError):  # not readable, or not a font
            face = FT2Font(file)
            if face.scalable and not _is_placeholder(face):
                ranked.append((face.style_name.lower() not in _PLAIN_STYLES, -face.num_glyphs, file))
    files: dict[int, str] = {}
    for *_, file in sorted(ranked):
        for code in FT2Font(file).get_charmap().keys() - _plain_characters():
            files.setdefault(code, file)
    return files


def _is_placeholder(face: FT2Font) -> bool:
    return face.family_name.lower().replace(" ", "").lstrip(".").startswith(_PLACEHOLDERS)


def _register_family(file: str) -> str:
    """Register a matplotlib family with only this font file, and return its name.

    By the name and weight of the font matplotlib could select another file of the family, or warn about the weight.
    """
    from matplotlib.font_manager import FontEntry, fontManager

    if all(entry.name != file for entry in fontManager.ttflist):
        fontManager.ttflist.append(FontEntry(fname=file, name=file))
    return file
