"""Lines of the small text files of formats: labels of an image, and lists of images."""

from __future__ import annotations

from pathlib import Path

from afictl.errors import UserError
from afictl.regular_files import read_bounded

_MAX_BYTES = 2**26


def read_lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8, with or without byte order mark.

    Raises:
        UserError: unreadable, larger than 64 MiB, or not UTF-8.
    """
    try:
        return read_bounded(path, _MAX_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8") from None
