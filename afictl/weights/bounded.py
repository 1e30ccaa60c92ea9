"""What the readers of strangers' files share: two ways to fail, text for messages, and a reader that bounds memory."""

from __future__ import annotations

import io

_SMALL_READ = 4096


class RefusedError(Exception):
    """The file holds more than tensors and plain values, or would cost more than its size: ``str`` says what."""


class DamagedError(Exception):
    """The file breaks off or contradicts itself: ``str`` says how."""


class BoundedReader(io.BufferedReader):
    """An open file that never allocates for more than it holds: Python's own ``read(2**40)`` would."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.size = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes, all the rest by default."""
        if size is not None and 0 <= size <= _SMALL_READ:
            return super().read(size)
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def shown(value: object) -> str:
    """A stranger's value for one line of a message: short, without control characters.

    Of containers only the type is told: writing out one that refers to itself often can take for ever.
    """
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__}"
    return ascii(str(value)[:80])[1:-1]
