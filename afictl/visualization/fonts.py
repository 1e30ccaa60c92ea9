"""Which font has which character: DejaVu Sans, which matplotlib brings along, then whatever is installed.

DejaVu Sans holds Latin, Cyrillic, Greek, Hebrew, Arabic and many signs; the installed fonts are opened only for a
character that it lacks. What no font has is drawn as a box, by DejaVu.
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

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

_PLAIN_STYLES = ("regular", "book", "roman", "normal")
_PLACEHOLDERS = ("lastresort", "adobeblank", "adobenotdef")
"""Families that claim every character and draw none."""


@lru_cache(maxsize=1)
def plain_font() -> str:
    """The file of DejaVu Sans."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def one_line(text: str) -> str:
    """``text`` composed (NFC), as most fonts hold it, with a space for each control character such as a line's end."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", unicodedata.normalize("NFC", text))


def parts_by_font(text: str) -> list[tuple[str, str]]:
    """``text`` cut into parts that one font file can draw, each with the file."""
    if text.isascii():
        return [(plain_font(), text)]
    return [(file, "".join(part)) for file, part in groupby(text, _file_of)]


def font_families(texts: Iterable[str]) -> list[str]:
    """The families that matplotlib needs for ``texts``, in the order in which it is to try them."""
    files = dict.fromkeys(file for text in texts for file, _ in parts_by_font(text))
    return ["DejaVu Sans", *(_known_family(file) for file in files if file != plain_font())]


def _file_of(character: str) -> str:
    if ord(character) in _plain_characters():
        return plain_font()
    return _installed_characters().get(ord(character), plain_font())


@lru_cache(maxsize=1)
def _plain_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(plain_font()).get_charmap())


@lru_cache(maxsize=1)
def _installed_characters() -> dict[int, str]:
    """By code point the font file to draw it with, of all that the installed fonts have beyond DejaVu Sans.

    Upright fonts of usual weight come first, and of those the ones with the most glyphs, so that a text is drawn by as
    few fonts as may be. The files are looked for anew: matplotlib's own list misses fonts installed after it was made.
    """
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    ranked = []
    for file in findSystemFonts():
        with suppress(OSError, RuntimeError):  # not readable, or not a font
            face = FT2Font(file)
            if face.scalable and not _is_placeholder(face):
                ranked.append((face.style_name.lower() not in _PLAIN_STYLES, -face.num_glyphs, file))
    found: dict[int, str] = {}
    for *_, file in sorted(ranked):
        for code in FT2Font(file).get_charmap().keys() - _plain_characters():
            found.setdefault(code, file)
    return found


def _is_placeholder(face: FT2Font) -> bool:
    return face.family_name.lower().replace(" ", "").lstrip(".").startswith(_PLACEHOLDERS)


def _known_family(file: str) -> str:
    """A family that for matplotlib consists of this font file alone.

    Its own name and weight would not do: another file of the family could be taken, or its weight complained about.
    """
    from matplotlib.font_manager import FontEntry, fontManager

    if all(entry.name != file for entry in fontManager.ttflist):
        fontManager.ttflist.append(FontEntry(fname=file, name=file))
    return file
