"""Helpers for matplotlib figures: literal names, line styles of runs, atomic saving."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afictl.files import atomic_write
from afictl.visualization.palette import LINE_COLORS, rgb_fractions
from afictl.visualization.text import font_families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 4)))
_SEED_NAME = re.compile(r"(.+)/seed\d+")

LineStyle = dict[str, Any]
"""Keyword arguments of a matplotlib line."""


@contextmanager
def literal_names(names: Iterable[str]) -> Iterator[None]:
    """Make matplotlib draw ``names`` literally, without TeX markup, in fonts with their characters.

    Figures must be created and saved inside. Characters that no font has are drawn as boxes, without a warning.
    """
    from matplotlib import rc_context

    settings = rc_context(
        {
            "font.family": font_families(names),
            "text.parse_math": False,
            "text.usetex": False,
            "axes.formatter.use_mathtext": False,
        }
    )
    with settings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively", UserWarning)
        yield


def legend_name(name: str) -> str:
    """``name`` for a legend; matplotlib omits names that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def save_figure(figure: Figure, path: Path) -> None:
    """Write a matplotlib figure atomically, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft:
        figure.savefig(draft, format=path.suffix.removeprefix("."))


def line_styles(names: Collection[str]) -> list[tuple[str, LineStyle]]:
    """Line style of each run: colour and marker by method, dashes by seed for names ``METHOD/seedN``."""
    palette = [rgb_fractions(color) for color in LINE_COLORS]
    seed_counts: dict[str, int] = {}
    style_indices: dict[tuple[str, int], int] = {}
    styles = []
    for name in names:
        match = _SEED_NAME.fullmatch(name)
        method = match[1] if match else name
        seed = seed_counts[method] = seed_counts.get(method, -1) + 1
        index = style_indices.setdefault((method, seed // len(_DASHES)), len(style_indices))
        style = {
            "color": palette[index % len(palette)],
            "marker": MARKERS[index // len(palette) % len(MARKERS)],
            "markersize": 4,
            "linestyle": _DASHES[seed % len(_DASHES)],
            "linewidth": 1.6,
        }
        styles.append((name, style))
    return styles


def repeated_style_warning(names: Collection[str]) -> str:
    """A sentence on the number of runs that share a line style; empty if all are distinct."""
    styles = [tuple(style.values()) for _, style in line_styles(names)]
    repeated = sum(styles.count(style) > 1 for style in styles)
    return f"Too many runs for distinct line styles: {repeated} of {len(styles)} share one" if repeated else ""
