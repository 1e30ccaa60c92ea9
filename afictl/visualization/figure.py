"""Pictures set beside one another on paper, each under its title, with one legend below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from afictl.visualization.style import INK, MUTED, PAPER, Color, fit_text, text_width, write

_COLUMNS = 4
_CAPTION = 20  # of the text's height: to this width a column grows beyond its pictures where its captions need it


@dataclass(frozen=True)
class Panel:
    """A picture with a title and, in a quieter colour beside or below it, a note."""

    picture: Image.Image
    title: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """What is drawn of one image: panels of equal size that are read together."""

    name: str
    """What its file is called, without suffix."""
    panels: Sequence[Panel]
    title: str = ""
    text: str = ""
    """What one sees, in a sentence or two."""
    legend: Sequence[tuple[str, Color]] = ()
    columns: int = _COLUMNS
    """Most panels in a row."""
    strip: Image.Image | None = None
    """A colour scale, drawn below."""

    def draw(self) -> Image.Image:
        """The whole figure as one picture."""
        page = assemble(self.panels, self.legend, columns=self.columns, title=self.title, text=self.text)
        if self.strip is None:
            return page
        gap = text_size(self.panels[0].picture.size)
        longer = Image.new("RGB", (max(page.width, self.strip.width + 2 * gap), page.height + self.strip.height), PAPER)
        longer.paste(page, (0, 0))
        longer.paste(self.strip, (gap, page.height - gap // 2))
        return longer


def text_size(size: tuple[int, int]) -> int:
    """Height in pixels of the text around panels of width and height ``size``."""
    return max(16, round(max(size) / 38))


def assemble(
    panels: Sequence[Panel],
    legend: Sequence[tuple[str, Color]] = (),
    *,
    columns: int = _COLUMNS,
    title: str = "",
    text: str = "",
) -> Image.Image:
    """Panels of equal size in rows of up to ``columns``, a heading above them and the colours' ``legend`` below."""
    columns = min(len(panels), columns)
    width, height = panels[0].picture.size
    size = text_size((width, height))
    gap = size
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    captions = max(text_width(words, size) for panel in panels for words in (panel.title, panel.note))
    cell = max(width, round(min(captions, _CAPTION * size)))
    lines = [2 if any(_is_wide(panel, size, cell) for panel in row) else 1 for row in rows]
    heads = [round((0.6 + 1.3 * count) * size) for count in lines]
    page_width = columns * (cell + gap) + gap
    keys = _legend_rows(legend, size, page_width - 2 * gap)
    heading = _heading(title, text, size, page_width - 2 * gap)
    top = heading.height if heading else 0
    grid_end = top + sum(heads) + len(rows) * (height + gap)
    page = Image.new("RGB", (page_width, grid_end + gap // 2 + len(keys) * round(1.7 * size)), PAPER)
    if heading:
        page.paste(heading, (gap, 0))
    pen = ImageDraw.Draw(page)
    y = top
    for row, count, head in zip(rows, lines, heads, strict=True):
        for column, panel in enumerate(row):
            x = gap + column * (cell + gap)
            _write_title(pen, panel, (x, y + 0.95 * size), size, cell, two_lines=count == 2)
            page.paste(panel.picture, (x, y + head))
        y += head + height + gap
    for number, entries in enumerate(keys):
        _write_legend(pen, entries, (gap, grid_end + number * round(1.7 * size) + size * 0.6), size)
    return page


def _heading(title: str, text: str, size: int, width: int) -> Image.Image | None:
    """A large title and a wrapped text below it; None where there is neither."""
    lines = _wrapped(text, size, width)
    if not title and not lines:
        return None
    line, large = round(1.45 * size), round(1.35 * size)
    start = round(1.9 * large) if title else size // 2
    heading = Image.new("RGB", (width, start + len(lines) * line + size // 4), PAPER)
    pen = ImageDraw.Draw(heading)
    if title:
        _write_bold(pen, fit_text(title, large, width), (0, 1.05 * large), large)
    for number, words in enumerate(lines):
        write(pen, (0, start + (number + 0.5) * line), fit_text(words, size, width), size, MUTED)
    return heading


def _wrapped(text: str, size: int, width: float) -> list[str]:
    """``text`` in lines of up to ``width`` pixels; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _is_wide(panel: Panel, size: int, width: int) -> bool:
    """Whether title and note do not fit one line above a picture of ``width``."""
    return bool(panel.note) and text_width(f"{panel.title}   {panel.note}", size) > width


def _write_title(
    pen: ImageDraw.ImageDraw,
    panel: Panel,
    left_middle: tuple[float, float],
    size: int,
    width: int,
    two_lines: bool = False,
) -> None:
    x, y = left_middle
    title = fit_text(panel.title, size, width)
    _write_bold(pen, title, (x, y), size)
    place = (x, y + 1.3 * size) if two_lines else (x + text_width(f"{title}   ", size), y)
    write(pen, place, fit_text(panel.note, size, width), size, MUTED)


def _write_bold(pen: ImageDraw.ImageDraw, text: str, left_middle: tuple[float, float], size: int) -> None:
    for shift in (0, 1):  # twice, a pixel apart: a bold face is wider, and not every installed font has one
        write(pen, (left_middle[0] + shift, left_middle[1]), text, size, INK)


def _legend_rows(legend: Sequence[tuple[str, Color]], size: int, width: float) -> list[list[tuple[str, Color]]]:
    """The entries broken into rows that fit ``width`` pixels."""
    rows: list[list[tuple[str, Color]]] = []
    used = width
    for name, color in legend:
        needed = _entry_width(name, size)
        if used + needed > width or not rows:
            rows.append([])
            used = 0
        rows[-1].append((name, color))
        used += needed
    return rows


def _write_legend(
    pen: ImageDraw.ImageDraw,
    entries: Sequence[tuple[str, Color]],
    left_middle: tuple[float, float],
    size: int,
) -> None:
    x, y = left_middle
    for name, color in entries:
        pen.rounded_rectangle((x, y - size * 0.4, x + size * 0.8, y + size * 0.4), radius=size // 6, fill=color)
        write(pen, (x + size * 1.2, y), name, size, INK)
        x += _entry_width(name, size)


def _entry_width(name: str, size: int) -> float:
    return text_width(name, size) + 2.4 * size
