"""Run lengths of many masks in a file instead of memory."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np


class MaskFile:
    """COCO's compressed run lengths, numbered in the order in which they are added.

    They lie in an unnamed temporary file, which the system removes with its owner; only their positions are in memory.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as its owner lives
        self._ends = array("q", [0])

    def add(self, packed: Sequence[bytes]) -> None:
        """Append masks; an empty one stands for an object without a mask."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(b"".join(packed))
        self._ends.extend(accumulate(map(len, packed), initial=self._ends.pop()))

    def present(self) -> np.ndarray:
        """Which of the n have a mask, bool (n,)."""
        return np.diff(np.frombuffer(self._ends, dtype=np.int64)) > 0

    def read(self, rows: Iterable[int]) -> list[bytes]:
        """The run lengths of the masks with these numbers."""
        return [self._read(self._ends[k], self._ends[k + 1]) for k in rows]

    def _read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)
