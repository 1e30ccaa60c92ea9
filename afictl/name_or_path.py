"""Arguments that are either a known name or a path, such as ``--interpolator`` and ``--preset``."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple

from afictl.errors import UserError


class Names(NamedTuple):
    """Known names of one sort."""

    members: Collection[str]
    prefix: str
    """``PREFIX:NAME`` is always the name, whatever files there are."""
    noun: str
    """What a name stands for, in error messages."""


def parse_name(text: str, names: Names, flag: str) -> str | None:
    """The known name that an argument gives; None if it is a path, which may not exist.

    Args:
        text: ``NAME``, ``PREFIX:NAME`` or a path.
        names: the known names.
        flag: what stands before ``text``, such as ``"--interpolator "`` or ``"--interpolators NAME="``, for the error.

    Raises:
        UserError: ``text`` is a known name and also an existing path.
    """
    explicit = text.removeprefix(f"{names.prefix}:")
    if explicit in names.members and explicit != text:
        return explicit
    if text not in names.members:
        return None
    if os.path.lexists(text):
        path, lead = "folder" if os.path.isdir(text) else "file", flag.rpartition(" ")[2]
        raise UserError(
            f"{flag}{text}: is the name of a {names.noun} and also a {path} here; write {lead}{names.prefix}:{text} for"
            f" the {names.noun}, or {lead}./{text} for the {path}"
        )
    return text
