"""Run lengths of masks in a temporary file instead of memory."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from afictl.files import name_file_in_errors


class MaskFile:
    """Append-only list of masks as COCO's compressed run lengths, with only their positions in memory.

    The unnamed temporary file is removed with the object.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open until the object is freed
        self._ends = array("q", [0])

    def add(self, packed: bytes, sizes: Iterable[int]) -> None:
        """Append concatenated masks of ``sizes`` bytes each; 0 for an object without a mask."""
        with name_file_in_errors(tempfile.gettempdir()):
            self._file.seek(0, os.SEEK_END)
            self._file.write(packed)
        self._ends.extend(accumulate(sizes, initial=self._ends.pop()))

    def present(self) -> np.ndarray:
        """Whether each of the n objects has a mask, bool (n,)."""
        return np.diff(np.frombuffer(self._ends, dtype=np.int64)) > 0

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The run lengths of the masks with these numbers."""
        ends = self._ends
        if not rows or rows[-1] - rows[0] + 1 != len(rows) or list(rows) != list(range(rows[0], rows[-1] + 1)):
            return [self._between(ends[k], ends[k + 1]) for k in rows]
        start = ends[rows[0]]
        packed = self._between(start, ends[rows[-1] + 1])
        return [packed[ends[k] - start : ends[k + 1] - start] for k in rows]

    def _between(self, start: int, end: int) -> bytes:
        with name_file_in_errors(tempfile.gettempdir()):  # seeking flushes the buffer
            self._file.seek(start)  # Windows has no pread
            return self._file.read(end - start)
