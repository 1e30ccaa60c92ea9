"""One self-contained HTML page of figures: readable on a phone, by keyboard, light and dark; it loads nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from afictl.files import atomic_write
from afictl.visualization.figure import Figure

_QUALITY = 90


def write_page(figures: Iterable[Figure], path: Path, title: str) -> None:
    """Write the figures under one another, whole or not at all; only one of them is in memory at a time.

    Every string from outside (class names, file names, names of runs) is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("afictl.visualization")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pieces = environment.get_template("page.html").generate(title=title, figures=_described(figures))
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(pieces)


def embedded(data: bytes, kind: str) -> str:
    """``data`` of a media type as an address that holds it."""
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"


def _described(figures: Iterable[Figure]) -> Iterator[dict[str, Any]]:
    for figure in figures:
        yield {
            "title": figure.title or figure.name,
            "text": figure.text,
            "strip": figure.strip and {"source": _smallest(figure.strip), "width": figure.strip.width},
            "columns": min(figure.columns, len(figure.panels)),
            "legend": [(name, "rgb({}, {}, {})".format(*color)) for name, color in figure.legend],
            "panels": [
                {
                    "source": _smallest(panel.picture),
                    "width": panel.picture.width,
                    "height": panel.picture.height,
                    "title": panel.title,
                    "note": panel.note,
                }
                for panel in figure.panels
            ],
        }


def _smallest(picture: Image.Image) -> str:
    """As PNG, which is small for maps and drawings, or as JPEG, which is for photographs."""
    png, jpeg = BytesIO(), BytesIO()
    picture.save(png, format="PNG")
    picture.save(jpeg, format="JPEG", quality=_QUALITY, subsampling=0)
    if len(png.getvalue()) <= len(jpeg.getvalue()):
        return embedded(png.getvalue(), "image/png")
    return embedded(jpeg.getvalue(), "image/jpeg")
