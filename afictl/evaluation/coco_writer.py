"""A COCO annotation file of any length, written image by image."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from afictl.files import atomic_write, name_file_in_errors


class CocoWriter:
    """Collects records on disk, next to ``path``, and puts them together as one file at the end, or leaves nothing.

    A folder that cannot be written to is an ``OSError`` before the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lists = {name: self._spool() for name in ("images", "annotations")}

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._lists.values():
            with suppress(OSError):  # what is still buffered is not wanted any more
                file.close()

    def add(self, image: Mapping[str, Any], annotations: Iterable[Mapping[str, Any]]) -> None:
        """Append one image and its objects."""
        for name, records in (("images", [image]), ("annotations", annotations)):
            file = self._lists[name]
            for record in records:
                with name_file_in_errors(self.path):
                    file.write((b",\n" if file.tell() else b"\n") + json.dumps(record).encode())

    def finish(self, **head: Any) -> None:
        """Write the file: the keys of ``head`` first, then the lists."""
        with atomic_write(self.path) as draft, draft.open("wb") as file:
            opening = b"{"
            for name, value in head.items():
                file.write(opening + f'"{name}": {json.dumps(value)}'.encode())
                opening = b",\n"
            for name, records in self._lists.items():
                file.write(opening + f'"{name}": ['.encode())
                opening = b",\n"
                records.seek(0)
                shutil.copyfileobj(records, file)
                file.write(b"\n]")
            file.write(b"}\n")

    def _spool(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}-")
