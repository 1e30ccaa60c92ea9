"""What all pictures that matplotlib draws have in common: names as they are written, and whole files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afictl.files import atomic_write
from afictl.visualization.fonts import font_families


@contextmanager
def names_as_written(names: Iterable[str]) -> Iterator[None]:
    """Within it matplotlib draws ``names`` literally, dollars too, in fonts that have their characters.

    A figure must be both made and saved within it. Of characters that no font has, it draws boxes and does not warn.
    """
    from matplotlib import rc_context

    literal = rc_context(
        {
            "font.family": font_families(names),
            "text.parse_math": False,
            "text.usetex": False,
            "axes.formatter.use_mathtext": False,
        }
    )
    with literal, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support .* natively", UserWarning)
        yield


def legend_name(name: str) -> str:
    """``name`` for a legend, from which matplotlib would leave out one that begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure, in the format of the path's suffix: a whole picture or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft:
        figure.savefig(draft, format=path.suffix.removeprefix("."))
