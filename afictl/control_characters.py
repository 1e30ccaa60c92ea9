"""Control characters in names of classes and files, which would break tables, lists of names, and terminals."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""C0 and C1 controls, the line and paragraph separators, and halves of surrogate pairs."""


def has_control_characters(text: str) -> bool:
    """Whether a text has a character that is no part of a line, such as a line break, a tab or an escape."""
    return _CONTROL.search(text) is not None


def escape_control_characters(text: str) -> str:
    r"""The text with control characters as Python writes them: a line break becomes the two characters ``\n``."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
