"""Errors, message text and the memory-bounded reader that all readers of untrusted files use."""

from __future__ import annotations

import io

from afictl.errors import describe_type

_SMALL_READ_BYTES = 4096


class RefusedError(Exception):
    """The file contains other objects than tensors and plain values, or claims too much memory; ``str`` names it."""


class DamagedError(Exception):
    """The file is truncated or inconsistent; ``str`` is the reason."""


class BoundedReader(io.BufferedReader):
    """An open file whose ``read`` allocates at most the rest of the file; Python's own ``read(2**40)`` does not."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.size = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most ``size`` bytes, by default the rest of the file."""
        if size is not None and 0 <= size <= _SMALL_READ_BYTES:
            return super().read(size)
        remaining = max(0, self.size - self.tell())
        return super().read(remaining if size is None or size < 0 else min(size, remaining))


def printable(value: object) -> str:
    """An untrusted value as text for a message: short, without control characters.

    A container is represented by its type: the text of a self-referencing one can be unbounded.
    """
    if isinstance(value, (list, tuple, dict, set)):
        return describe_type(value)
    return ascii(str(value)[:80])[1:-1]
