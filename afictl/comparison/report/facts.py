"""What the report says in words: the conditions of a comparison, and how to have it again."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afictl.comparison.report.paths import nearby
from afictl.comparison.report.table import NONE, Entry, Row, Table
from afictl.comparison.results import Comparison
from afictl.run_folder import VERSIONS

_NO_VERSION = ("command", "started")
_COMMANDS = 3


def conditions(comparison: Comparison, beside: Path) -> list[tuple[str, str]]:
    """What was compared, as pairs of a term and its value; paths named from ``beside`` or the current folder."""
    trained = any(method.runs for method in comparison.methods)
    files = [("held-out data", str(comparison.annotation_file)), ("images", str(comparison.image_dir))]
    found = [*(files if trained else []), ("seeds", _seeds(comparison)), *comparison.settings.items()]
    return [("preset", comparison.preset), *((term, nearby(value, beside, Path.cwd())) for term, value in found)]


def verdicts(comparison: Comparison, beside: Path) -> list[tuple[str, bool]]:
    """What is said of each method, and whether a difference in box or mask AP is claimed with it."""
    return [
        (
            nearby(method.verdict, beside, Path.cwd()),
            any(method.difference[name].claimed for name in ("box/AP", "mask/AP") if name in method.difference),
        )
        for method in comparison.methods
        if method.verdict
    ]


def versions(comparison: Comparison) -> list[tuple[str, str]]:
    """Software and hardware of the runs; values that differ between runs are listed side by side."""
    found: dict[str, dict[str, None]] = {}
    for record in _records(comparison):
        for name, value in record.items():
            if name not in _NO_VERSION:
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                found.setdefault(name, {})[text or "none"] = None
    return [(name, " / ".join(values)) for name, values in found.items()]


def commands(comparison: Comparison) -> list[str]:
    """The commands that made the runs, each once, as a shell takes them in the current folder."""
    found: dict[str, None] = {}
    for record in _records(comparison):
        words = record.get("command")
        if isinstance(words, list) and words:
            program, *rest = map(str, words)
            found[shlex.join([_command_name(program), *(nearby(word, Path.cwd()) for word in rest)])] = None
    return list(found)[:_COMMANDS]


def cell_table(comparison: Comparison, beside: Path) -> Table | None:
    """Every run with its folder, named from ``beside`` where it lies below that; None without runs."""
    rows = []
    for series, method in enumerate(comparison.methods):
        for cell in method.runs:
            ap, seconds = cell.metrics.get("box/AP"), cell.training_seconds
            entries = (
                Entry(str(cell.seed), key=cell.seed),
                NONE if ap is None else Entry(f"{ap:.1f}", key=ap),
                NONE if seconds is None else Entry(f"{seconds / 60:.1f}", key=seconds),
                Entry(nearby(str(cell.folder.resolve()), beside, Path.cwd()), tone="path"),
            )
            rows.append(Row(method.name, "", entries, series))
    heads = (("Method", ""), ("Seed", ""), ("Box AP", "points"), ("Training", "minutes"), ("Folder", ""))
    return Table("Runs", heads, tuple(rows)) if rows else None


def _command_name(program: str) -> str:
    """What a shell finds: ``python -m afictl`` is recorded as the file ``afictl/__main__.py``."""
    folder, name = os.path.split(program)
    return os.path.basename(folder) if name == "__main__.py" else name


def _seeds(comparison: Comparison) -> str:
    of_methods = {method.name: tuple(cell.seed for cell in method.runs) for method in comparison.methods}
    if not any(of_methods.values()):
        return "none: only prices were measured"
    if len(set(of_methods.values())) == 1:
        return _listed(next(iter(of_methods.values())))
    return "; ".join(f"{name}: {_listed(seeds)}" for name, seeds in of_methods.items())


def _listed(seeds: tuple[int, ...]) -> str:
    return f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else "none"


def _records(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """The contents of ``versions.json`` of every run that has a sound one."""
    for method in comparison.methods:
        for cell in method.runs:
            try:
                record = json.loads((cell.folder / VERSIONS).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(record, dict):
                yield record
