"""Checks of output paths, which run before the work, and JSON output."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import typer

from afictl.errors import UserError


def parse_output_folder(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option or argument for an output folder, which may be absent.

    Raises:
        UserError: ``value`` is a file, not writable or no valid UTF-8.
    """
    if value is not None:
        _require_text(value, _name(parameter))
        if value.exists() and not value.is_dir():
            raise UserError(f"{value} is a file; {_name(parameter)} is a folder")
        require_writable(value, _name(parameter))
    return value


def parse_output_file(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option or argument for an output file.

    Raises:
        UserError: ``value`` is a folder or no valid UTF-8, or its folder is not writable.
    """
    if value is not None:
        _require_text(value, _name(parameter))
        if value.is_dir():
            raise UserError(f"{value} is a folder; {_name(parameter)} is a file")
        from afictl.files import is_special

        if not is_special(value):
            require_writable(value.parent, _name(parameter))
    return value


def _require_text(path: Path, option: str) -> None:
    """Refuse a path with bytes that are no text, in which libraries for plots and events cannot write."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{option} {str(path)!a}: the path is not valid UTF-8; choose another name") from None


def require_writable(folder: Path, option: str) -> None:
    """Check that ``folder`` can be created and written to, without creating it.

    Raises:
        UserError: no file can be created in ``folder``, or in the nearest parent that exists.
    """
    parent = folder.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder}: nothing can be written in {parent} ({error.strerror})") from None


def write_json(path: Path, content: object, *, named_by_user: bool = False) -> None:
    """Write ``content`` as JSON atomically; create missing folders. ``named_by_user`` as in ``atomic_write``."""
    from afictl.files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + "\n", named_by_user=named_by_user)


def _name(parameter: typer.CallbackParam) -> str:
    """Name in the help, such as ``--output`` or ``OUT``."""
    option = parameter.opts[0]
    return option if option.startswith("-") else parameter.metavar or option
