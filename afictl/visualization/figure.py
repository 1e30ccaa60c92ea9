"""Figures: panels with titles in rows, a heading and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from afictl.visualization.palette import INK, MUTED, PAPER, Color
from afictl.visualization.text import draw_text, fit_text, text_width

_COLUMNS = 4
_MAX_CAPTION_EMS = 20  # a column grows to this width beyond its panels where their captions need it


@dataclass(frozen=True)
class Panel:
    """A picture with a title, and a note after or below the title."""

    picture: Image.Image
    title: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Panels of equal size about one image."""

    name: str
    """File name without suffix."""
    panels: Sequence[Panel]
    title: str = ""
    text: str = ""
    """Explanation of the panels, below the title."""
    legend: Sequence[tuple[str, Color]] = ()
    columns: int = _COLUMNS
    """Maximum number of panels in a row."""
    strip: Image.Image | None = None
    """Colour scale below the panels."""

    def draw(self) -> Image.Image:
        """Draw the figure as one picture."""
        page = _draw_page(self)
        if self.strip is None:
            return page
        gap = text_size(self.panels[0].picture.size, min(len(self.panels), self.columns))
        extended = Image.new(
            "RGB", (max(page.width, self.strip.width + 2 * gap), page.height + self.strip.height), PAPER
        )
        extended.paste(page, (0, 0))
        extended.paste(self.strip, (gap, page.height - gap // 2))
        return extended


def text_size(size: tuple[int, int], columns: int = 1) -> int:
    """Text size in pixels for panels of width and height ``size`` in rows of ``columns``."""
    return max(16, round(max(size) / 38), round(columns * size[0] / 130))


def _draw_page(figure: Figure) -> Image.Image:
    """Draw heading, panels in rows, and legend."""
    panels, columns = figure.panels, min(len(figure.panels), figure.columns)
    width, height = panels[0].picture.size
    size = gap = text_size((width, height), columns)
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    captions = max(text_width(words, size) for panel in panels for words in (panel.title, panel.note))
    column_width = max(width, math.ceil(min(captions, _MAX_CAPTION_EMS * size)))
    line_counts = [2 if any(_is_wide(panel, size, column_width) for panel in row) else 1 for row in rows]
    title_heights = [round((0.6 + 1.3 * count) * size) for count in line_counts]
    page_width = columns * (column_width + gap) + gap
    legend_rows = _legend_rows(figure.legend, size, page_width - 2 * gap)
    heading = _heading(figure.title, figure.text, size, page_width - 2 * gap)
    top = heading.height if heading else 0
    panels_bottom = top + sum(title_heights) + len(rows) * (height + gap)
    page = Image.new("RGB", (page_width, panels_bottom + gap // 2 + len(legend_rows) * round(1.7 * size)), PAPER)
    if heading:
        page.paste(heading, (gap, 0))
    pen = ImageDraw.Draw(page)
    y = top
    for row, count, title_height in zip(rows, line_counts, title_heights, strict=True):
        for column, panel in enumerate(row):
            x = gap + column * (column_width + gap)
            _write_title(pen, panel, (x, y + 0.95 * size), size, column_width, two_lines=count == 2)
            page.paste(panel.picture, (x, y + title_height))
        y += title_height + height + gap
    for number, entries in enumerate(legend_rows):
        _write_legend(pen, entries, (gap, panels_bottom + number * round(1.7 * size) + size * 0.6), size)
    return page


def _heading(title: str, text: str, size: int, width: int) -> Image.Image | None:
    """Picture of the title and the wrapped text; None if both are empty."""
    lines = _wrap(text, size, width)
    if not title and not lines:
        return None
    line_height, title_size = round(1.45 * size), round(1.35 * size)
    start = round(1.9 * title_size) if title else size // 2
    heading = Image.new("RGB", (width, start + len(lines) * line_height + size // 4), PAPER)
    pen = ImageDraw.Draw(heading)
    if title:
        _write_bold(pen, fit_text(title, title_size, width), (0, 1.05 * title_size), title_size)
    for number, words in enumerate(lines):
        draw_text(pen, (0, start + (number + 0.5) * line_height), fit_text(words, size, width), size, MUTED)
    return heading


def _wrap(text: str, size: int, width: float) -> list[str]:
    """Wrap ``text`` into lines of up to ``width`` pixels; a wider word has its own line."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _is_wide(panel: Panel, size: int, width: int) -> bool:
    """Whether title and note need two lines in a column of ``width``."""
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
    note_position = (x, y + 1.3 * size) if two_lines else (x + text_width(f"{title}   ", size), y)
    draw_text(pen, note_position, fit_text(panel.note, size, width), size, MUTED)


def _write_bold(pen: ImageDraw.ImageDraw, text: str, left_middle: tuple[float, float], size: int) -> None:
    for shift in (0, 1):  # drawn twice, a pixel apart, as not every installed font has a bold face
        draw_text(pen, (left_middle[0] + shift, left_middle[1]), text, size, INK)


def _legend_rows(legend: Sequence[tuple[str, Color]], size: int, width: float) -> list[list[tuple[str, Color]]]:
    """Wrap the entries into rows of up to ``width`` pixels."""
    rows: list[list[tuple[str, Color]]] = []
    row_width = width
    for name, color in legend:
        entry_width = _entry_width(name, size)
        if row_width + entry_width > width or not rows:
            rows.append([])
            row_width = 0
        rows[-1].append((name, color))
        row_width += entry_width
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
        draw_text(pen, (x + size * 1.2, y), name, size, INK)
        x += _entry_width(name, size)


def _entry_width(name: str, size: int) -> float:
    return text_width(name, size) + 2.4 * size
