"""Writer of COCO annotation files, image by image."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from afictl.files import atomic_write, name_file_in_errors


class CocoWriter:
    """Writer of a COCO annotation file that the user named, with records in temporary files until ``finish``.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._records = {name: self._temporary_file() for name in ("images", "annotations")}

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._records.values():
            with suppress(OSError):  # buffered records are discarded
                file.close()

    def add(self, image: Mapping[str, object], annotations: Iterable[Mapping[str, object]]) -> None:
        """Append one image and its annotations."""
        for name, records in (("images", [image]), ("annotations", annotations)):
            file = self._records[name]
            for record in records:
                with name_file_in_errors(self.path):
                    file.write((b",\n" if file.tell() else b"\n") + json.dumps(record).encode())

    def finish(self, **header: object) -> None:
        """Write ``path`` atomically: first the keys of ``header``, then images and annotations."""
        with atomic_write(self.path, named_by_user=True) as draft, draft.open("wb") as file:
            separator = b"{"
            for name, value in header.items():
                file.write(separator + f'"{name}": {json.dumps(value)}'.encode())
                separator = b",\n"
            for name, records in self._records.items():
                file.write(separator + f'"{name}": ['.encode())
                separator = b",\n"
                records.seek(0)
                shutil.copyfileobj(records, file)
                file.write(b"\n]")
            file.write(b"}\n")

    def _temporary_file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}-")
