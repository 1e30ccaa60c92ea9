"""Flags on the command line and their values, for messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PATH_FLAGS = (
    "--weights",
    "--backbone-weights",
    "--guide",
    "--data",
    "--exclude",
    "--images",
    "--predictions",
    "--pseudo",
    "--preset",
    "--interpolator",
    "--output",
    "--json",
)
"""Flags whose value is a path, or a name or a path."""


def name_flag(message: str) -> str:
    """``message``, after the flag whose value it begins with, as in ``--weights x.pth: no such file or folder``.

    Unchanged if it begins with no path of the command line, or with that of an argument or of several flags.
    """
    flags = {
        flag
        for flag, value in _flags()
        if flag in PATH_FLAGS and message.startswith((f"{value}: ", f"{Path(value)}: ")) and value
    }
    return f"{flags.pop()} {message}" if len(flags) == 1 else message


def value_of(flags: Sequence[str]) -> str:
    """The last value of one of ``flags``, such as ``("--limit",)``; empty if there is none."""
    values = [value for flag, value in _flags() if flag in flags]
    return values[-1] if values else ""


def _flags() -> Iterator[tuple[str, str]]:
    """Every word that begins with ``--``, with what stands behind its ``=`` or else the next word."""
    words = sys.argv[1:]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, separator, value = word.partition("=")
        if flag.startswith("--"):
            yield flag, value if separator else following
