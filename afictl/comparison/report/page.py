"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from afictl.comparison.analysis.missing_values import absent_metrics, record_faults
from afictl.comparison.analysis.screen_tables import TWO_SEEDS_NOTE, busy_machine_note
from afictl.comparison.analysis.settings_summary import UNEQUAL_PREFIX
from afictl.comparison.analysis.spread_columns import SPREAD_NOTE
from afictl.comparison.analysis.verdicts import overview_sentences
from afictl.comparison.report.curve_plots import plot_curves
from afictl.comparison.report.detection_gallery import THRESHOLD, Gallery, draw_gallery
from afictl.comparison.report.report_tables import (
    class_tables,
    method_tables,
    run_table,
    shorten_paths,
    spread_tables,
    tuning_table,
)
from afictl.comparison.report.reproduction import list_commands, list_settings, list_verdicts, list_versions
from afictl.comparison.report.scatter_plots import plot_accuracy_against_costs
from afictl.comparison.report.theme import color_class, dash_pattern, marker_path, style_sheet
from afictl.comparison.results import Comparison
from afictl.files import write_text

_MAX_PAGE_BYTES = 9_500_000
_MAX_IMAGE_BYTES = 7_000_000


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one self-contained HTML file below 10 MB.

    Reads ``metrics.jsonl``, ``predictions.json`` and ``versions.json`` of every run, and the images that are drawn; the
    page reports missing files. All strings of the comparison are escaped.

    Args:
        comparison: any comparison, also with one seed, without runs or without masks.
        path: file to write atomically.
    """
    classes, num_omitted_classes = class_tables(comparison)
    costs = plot_accuracy_against_costs(comparison)
    content = {
        "comparison": comparison,
        "settings": list_settings(comparison, path.parent),
        "overview": overview_sentences(comparison),
        "verdicts": list_verdicts(comparison, path.parent),
        "tables": method_tables(comparison),
        "spread_tables": spread_tables(comparison),
        "spread_note": SPREAD_NOTE,
        "unequal_prefix": UNEQUAL_PREFIX,
        "tuning_table": tuning_table(comparison),
        "costs": costs,
        "timing_note": busy_machine_note(comparison),
        "curves": plot_curves(comparison),
        "record_faults": [shorten_paths(fault, path.parent) for fault in record_faults(comparison)],
        "absent_metrics": absent_metrics(comparison),
        "class_tables": classes,
        "num_omitted_classes": num_omitted_classes,
        "versions": list_versions(comparison),
        "commands": list_commands(comparison),
        "runs": run_table(comparison, path.parent),
        "threshold": THRESHOLD,
        "two_seeds_note": TWO_SEEDS_NOTE,
    }
    without_images = _render(content, Gallery(None, (), ()), len(costs))
    budget = min(_MAX_IMAGE_BYTES, _MAX_PAGE_BYTES - len(without_images.encode()))
    gallery = draw_gallery(comparison, budget)
    notes = tuple(shorten_paths(note, path.parent) for note in gallery.notes)
    write_text(path, _render(content, replace(gallery, notes=notes), len(costs)))


def _render(content: Mapping[str, object], gallery: Gallery, num_costs: int) -> str:
    templates = Environment(
        loader=PackageLoader("afictl.comparison.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.globals |= {"color_class": color_class, "marker_path": marker_path, "dash_pattern": dash_pattern}
    style = style_sheet(templates, len(gallery.panel_titles), num_costs)
    script = templates.get_template("report.js").render()
    # Only style and script are not escaped: they contain no data.
    return templates.get_template("report.html.j2").render(
        content,
        gallery=gallery,
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _csp_hash(text: str) -> str:
    """Hash of an inline style or script for the Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
