"""Where a command may write: asked before the work, so that hours of it are not lost to a misspelt path."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import typer

from afictl.errors import UserError


def output_folder(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """The callback of an option or argument that names a folder to write to; missing parents are made later.

    Raises:
        UserError: it is a file, or nothing can be written there.
    """
    if value is not None:
        if value.exists() and not value.is_dir():
            raise UserError(f"{value} is a file; {_name(parameter)} is a folder")
        require_writable(value, _name(parameter))
    return value


def output_file(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """The callback of an option or argument that names a file to write, for ``write_file``.

    Raises:
        UserError: it is a folder, or nothing can be written there.
    """
    if value is not None:
        if value.is_dir():
            raise UserError(f"{value} is a folder; {_name(parameter)} is a file")
        from afictl.files import is_special

        if not is_special(value):
            require_writable(value.parent, _name(parameter))
    return value


def require_writable(folder: Path, option: str) -> None:
    """Refuse a folder that could not be made, or in which no file could; makes neither.

    Raises:
        UserError: the nearest folder above that exists takes no new file; the reason is the system's.
    """
    above = folder.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder}: nothing can be written in {above} ({error.strerror})") from None


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all, with the folders that it is in."""
    from afictl.files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + "\n")


def _name(parameter: typer.CallbackParam) -> str:
    """As the help calls it: ``--output``, ``OUT``."""
    option = parameter.opts[0]
    return option if option.startswith("-") else parameter.metavar or option
