"""Settings, verdicts, versions and commands of a comparison as text for the report."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from afictl.comparison.report.report_tables import shorten_paths
from afictl.comparison.results import Comparison
from afictl.errors import UserError
from afictl.run_folder import VERSIONS
from afictl.run_records import read_versions

_NO_VERSION = ("command", "started")
_MAX_COMMANDS = 3
_KERNEL_RELEASE = re.compile(r"^(Linux)-.+-(\w+)(?=$|-with-)")
"""Part of the platform in files of earlier versions, between system and machine."""


def list_settings(comparison: Comparison, report_dir: Path) -> list[tuple[str, str]]:
    """Pairs of setting and value; paths are relative to ``report_dir`` or the current folder."""
    trained = any(method.runs for method in comparison.methods)
    files = [("held-out data", str(comparison.annotation_file)), ("images", str(comparison.image_dir))]
    terms = [*(files if trained else []), ("seeds", _seeds(comparison)), *comparison.settings.items()]
    return [("preset", comparison.preset), *((term, shorten_paths(value, report_dir)) for term, value in terms)]


def list_verdicts(comparison: Comparison, report_dir: Path) -> list[tuple[str, bool]]:
    """Verdict on each method, and whether it claims a difference in box or mask AP."""
    return [
        (
            shorten_paths(method.verdict, report_dir),
            any(method.difference[key].claimed for key in ("box/AP", "mask/AP") if key in method.difference),
        )
        for method in comparison.methods
        if method.verdict
    ]


def list_versions(comparison: Comparison) -> list[tuple[str, str]]:
    """Software and hardware of the runs; differing values of a key are joined by slashes."""
    values: dict[str, dict[str, None]] = {}
    for record in _version_records(comparison):
        for name, value in record.items():
            if name not in _NO_VERSION:
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                text = _KERNEL_RELEASE.sub(r"\1-\2", shorten_paths(text, Path.cwd()))
                values.setdefault(name, {})[text or "none"] = None
    return [(name, " / ".join(texts)) for name, texts in values.items()]


def list_commands(comparison: Comparison) -> list[str]:
    """Distinct commands of the runs, quoted for a shell in the current folder."""
    lines: dict[str, None] = {}
    for record in _version_records(comparison):
        words = record.get("command")
        if isinstance(words, list) and words:
            program, *arguments = map(str, words)
            arguments = [shorten_paths(argument, Path.cwd()) for argument in arguments]
            lines[shlex.join([_command_name(program), *arguments])] = None
    return list(lines)[:_MAX_COMMANDS]


def _command_name(program: str) -> str:
    """Program name for a shell; ``python -m afictl`` is recorded as ``afictl/__main__.py``."""
    folder, name = os.path.split(program)
    return os.path.basename(folder) if name == "__main__.py" else name


def _seeds(comparison: Comparison) -> str:
    seeds = {method.name: tuple(run.seed for run in method.runs) for method in comparison.methods}
    if not any(seeds.values()):
        return "none: only costs were measured"
    if len(set(seeds.values())) == 1:
        return _format_seeds(next(iter(seeds.values())))
    return "; ".join(f"{name}: {_format_seeds(method_seeds)}" for name, method_seeds in seeds.items())


def _format_seeds(seeds: tuple[int, ...]) -> str:
    return f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else "none"


def _version_records(comparison: Comparison) -> Iterator[dict[str, str | list[str]]]:
    """Content of every valid ``versions.json`` of the runs."""
    for method in comparison.methods:
        for run in method.runs:
            with suppress(UserError):  # absent or damaged
                yield read_versions(run.folder / VERSIONS)
