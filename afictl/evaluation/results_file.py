"""A file of COCO results that grows image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from afictl.distributed import Runtime, all_gather
from afictl.files import name_file_in_errors, replace_file, temporary_path

_IMAGES = 4  # of each process between two meetings


class ResultsFile:
    """A JSON list with a result a line, which appears under its name when it is whole.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._draft = temporary_path(path)
        self._file = self._draft.open("wb")
        self._before = b"["

    def add(self, results: bytes) -> None:
        """Append encoded results."""
        if results:
            with name_file_in_errors(self.path):
                self._file.write(self._before + b"\n" + results)
            self._before = b","

    def finish(self) -> None:
        """Put the file in its place."""
        with name_file_in_errors(self.path):
            self._file.write(b"[]\n" if self._before == b"[" else b"\n]\n")
            self._file.close()
            replace_file(self._draft, self.path)

    def discard(self) -> None:
        """Remove what is not finished."""
        with suppress(OSError):
            self._file.close()
        self._draft.unlink(missing_ok=True)


def encode(results: list[dict[str, Any]]) -> bytes:
    """Results as they stand between the brackets of a results file."""
    return b",\n".join(msgspec.json.encode(item) for item in results)


def write_results(path: Path, images: Iterator[bytes], runtime: Runtime, progress: Callable[[], None]) -> None:
    """Write the encoded results of all images to one file, on rank 0.

    Args:
        path: of the file; used by rank 0 alone.
        images: the encoded results of each image of this rank.
        runtime: all its ranks must call this.
        progress: called by rank 0 at each image that is written.

    Raises:
        Exception: what ``images`` of any rank raises, see ``all_gather``; the file is then as it was before.
    """
    file: ResultsFile | None = None
    received: list[list[bytes]] = []

    def start() -> None:
        nonlocal file
        file = ResultsFile(path) if runtime.is_main_process else None

    def go_on() -> list[bytes]:
        """Write what came last, and find the next few."""
        for results in (item for items in received for item in items):
            if file is not None:
                file.add(results)
                progress()
        return list(islice(images, _IMAGES))

    def end() -> None:
        if file is not None:
            file.finish()

    try:
        all_gather(start, runtime.world_size)
        received = all_gather(go_on, runtime.world_size)
        while any(received):
            received = all_gather(go_on, runtime.world_size)
        all_gather(end, runtime.world_size)
    finally:
        if file is not None:
            file.discard()
