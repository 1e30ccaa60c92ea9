"""Lines of the small text files of formats: labels of an image, and lists of images."""

from __future__ import annotations

from pathlib import Path

from afictl.errors import UserError, format_error
from afictl.regular_files import open_regular

_MAX_BYTES = 2**26


def read_lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8, with or without byte order mark.

    Raises:
        UserError: unreadable, larger than 64 MiB, or not UTF-8.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(format_error(error)) from None
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path}: larger than {_MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8") from None
