"""One HTML page of a comparison: verdicts, tables, plots and pictures, in a single file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from afictl.comparison.analysis.screen_tables import TWO_SEEDS_NOTE
from afictl.comparison.analysis.verdicts import overview_sentences
from afictl.comparison.report.curves import curve_plots
from afictl.comparison.report.facts import cell_table, commands, conditions, verdicts, versions
from afictl.comparison.report.paths import nearby
from afictl.comparison.report.pictures import THRESHOLD, Gallery, draw_gallery
from afictl.comparison.report.scatter import scatter_panes
from afictl.comparison.report.style import dash, hue, marker, style_sheet
from afictl.comparison.report.table import class_tables, method_tables
from afictl.comparison.results import Comparison
from afictl.files import write_text

_PAGE_BYTES = 9_500_000
_PICTURE_BYTES = 7_000_000


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one HTML file below 10 MB that makes no request.

    Reads ``metrics.jsonl``, ``predictions.json`` and ``versions.json`` of every cell, and the images that are drawn.
    What is missing of them is told on the page. Every string of the comparison is text on the page, never markup.

    Args:
        comparison: its baseline first; any of its parts may be absent (one seed, prices only, no masks).
        path: the file; an existing one is replaced as a whole.
    """
    content = {
        "comparison": comparison,
        "conditions": conditions(comparison, path.parent),
        "overview": overview_sentences(comparison),
        "verdicts": verdicts(comparison, path.parent),
        "tables": method_tables(comparison, path.parent),
        "panes": scatter_panes(comparison),
        "curves": curve_plots(comparison),
        "classes": class_tables(comparison),
        "versions": versions(comparison),
        "commands": commands(comparison),
        "cells": cell_table(comparison, path.parent),
        "threshold": THRESHOLD,
        "two_seeds": TWO_SEEDS_NOTE,
    }
    bare = _render(content, Gallery(None, (), ()))
    budget = min(_PICTURE_BYTES, _PAGE_BYTES - len(bare.encode()))
    gallery = draw_gallery(comparison, budget)
    notes = tuple(nearby(note, path.parent, Path.cwd()) for note in gallery.notes)
    write_text(path, _render(content, replace(gallery, notes=notes)))


def _render(content: Mapping[str, Any], gallery: Gallery) -> str:
    templates = Environment(
        loader=PackageLoader("afictl.comparison.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.globals |= {"hue": hue, "marker": marker, "dash": dash}
    style = style_sheet(templates, choices=len(gallery.choices), panes=len(content["panes"]))
    script = templates.get_template("report.js").render()
    # Only these two are not escaped: they hold nothing of the data.
    return templates.get_template("report.html.j2").render(
        content,
        gallery=gallery,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline part."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
