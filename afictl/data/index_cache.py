"""The index of a large annotation file, kept for later starts and for all processes that read the same file.

It lies beside the annotation file, where every machine that sees the data finds it; where that folder cannot be
written to, in the user's cache folder or, failing that, in a temporary one. Any of them may be deleted at any time.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from afictl.data.hashing import file_digest
from afictl.data.index_file import IndexContents, read_index_file, write_index_file
from afictl.files import remove_temporary_files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SMALLEST = 16 * 2**20
"""Bytes of an annotation file. A smaller one is read in a second or two and gets no cache."""

_PATIENCE = 600.0
"""Seconds that a process waits for another one's index before it reads the annotations itself."""


def cached(file: Path, build: Callable[[], IndexContents]) -> IndexContents:
    """What ``build`` makes of an annotation file, from its cache where that is sound and made of the same content.

    Of several processes that need it at once, one builds and the others wait. Whatever goes wrong with the cache
    costs time and nothing else.

    Raises:
        UserError: what ``build`` raises.
    """
    try:
        if file.stat().st_size < SMALLEST:
            return build()
        source = file_digest(file)
    except OSError:
        return build()
    places = cache_places(file)
    found = _find(places, source)
    if found is None:
        with _alone_with(file):
            found = _find(places, source) or _build_and_keep(file, source, places, build)
    return found


def cache_places(file: Path) -> list[Path]:
    """Where the index of an annotation file may lie, in order of preference."""
    name = f"{file.stem}-{sha256(os.fsencode(file.resolve())).hexdigest()[:16]}.afictl-index"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [Path(home) / "afictl", *_own_temporary_folder()]
    return [file.with_name(f"{file.name}.afictl-index"), *(folder / name for folder in folders)]


def _own_temporary_folder() -> list[Path]:
    """A folder where everybody may write, unless somebody else has made it there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"afictl-{user}"  # there may be none to be written to
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return []
    return [folder] if stat.S_ISDIR(found.st_mode) and found.st_uid == user else []


def _find(places: list[Path], source: str) -> IndexContents | None:
    return next(filter(None, (read_index_file(place, source) for place in places)), None)


def _build_and_keep(file: Path, source: str, places: list[Path], build: Callable[[], IndexContents]) -> IndexContents:
    contents = build()
    if file_digest(file) != source:  # written to while it was read
        return contents
    for place in places:
        with suppress(OSError):  # of a process that was killed here, whose index was never found: it is made again now
            remove_temporary_files(place.parent, name=place.name)
        try:
            write_index_file(place, source, contents)
        except OSError:
            continue
        return read_index_file(place, source) or contents
    return contents


@contextmanager
def _alone_with(file: Path) -> Iterator[None]:
    """Hold a lock on an annotation file, where its file system has locks, against other processes that read it.

    The file itself is locked, so that no lock file is left behind and a read-only folder is no obstacle.
    """
    with open(file, "rb") as opened:
        deadline = time.monotonic() + _PATIENCE
        while fcntl is not None and time.monotonic() < deadline:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # no locks here
                break
            else:
                break
        yield
