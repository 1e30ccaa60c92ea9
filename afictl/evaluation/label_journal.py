"""Journal of pseudo-labelled images, with which a killed command continues where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TypedDict

from filelock import FileLock, Timeout

from afictl.errors import UserError
from afictl.files import discard_special, name_file_in_errors

_MAX_LINE_BYTES = 2**26


class LabelledImage(TypedDict):
    """Pseudo labels of one image, or why it cannot be read."""

    file: str
    """Name relative to the folder of the images."""
    size_hw: list[int]
    """In pixels; empty for an unreadable image."""
    detections: dict[str, int]
    """Number of detections of any score by label, as JSON has only text as keys."""
    labels: list[int]
    """Label of each annotation."""
    annotations: list[dict[str, object]]
    """Without ``id`` and ``image_id``."""
    is_cut: bool
    """Whether there are as many labels as the teacher's ``max_detections``."""
    error: str


class LabelJournal:
    """File beside the output with one JSON line an image, appended as soon as the image is labelled.

    Its first line holds the settings that the labels depend on. A journal with other settings is begun anew. A lock
    file beside it lets one process write to it.

    Args:
        output: the annotation file that is to be written.
        settings: as plain values.

    Raises:
        UserError: another process writes to it.
        OSError: the folder is not writable.
    """

    def __init__(self, output: Path, settings: Mapping[str, object]) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        self._settings = (json.dumps(settings, sort_keys=True) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            advice = "wait until it has ended, or choose another --output"
            raise UserError(f"{output}: another process writes pseudo labels to it; {advice}") from None
        try:
            self._file = self._open()
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> LabelJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._unlock()

    def read(self, names: Iterator[str]) -> Iterator[LabelledImage]:
        """Yield the images up to the first that differs from ``names``, and cut off what follows them.

        Args:
            names: of the images in their order; one more than is yielded may be taken.
        """
        self._file.seek(len(self._settings))
        end = self._file.tell()
        while (name := next(names, None)) is not None:
            image = _parse(self._file.readline(_MAX_LINE_BYTES))
            if image is None or image["file"] != name:
                break
            end = self._file.tell()
            yield image
        self._file.seek(end)
        self._file.truncate()

    def append(self, image: LabelledImage) -> None:
        """Append an image.

        Raises:
            OSError: such as a full disk; names the file.
        """
        with name_file_in_errors(self.path):
            self._file.write((json.dumps(image) + "\n").encode())
            self._file.flush()

    def remove(self) -> None:
        """Remove the file: all images are labelled."""
        self.path.unlink(missing_ok=True)

    def _unlock(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _open(self) -> IO[bytes]:
        discard_special(self.path)
        file = self.path.open("r+b" if self.path.exists() else "w+b")
        if file.read(len(self._settings)) != self._settings:
            file.seek(0)
            file.truncate()
            file.write(self._settings)
            file.flush()
        return file


def _parse(line: bytes) -> LabelledImage | None:
    """An image of the journal; None for a line whose writing was interrupted."""
    if not line.endswith(b"\n"):
        return None
    try:
        content: LabelledImage = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.keys() == LabelledImage.__annotations__.keys() else None
