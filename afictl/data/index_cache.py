"""Cache of the index of a large annotation file, for later starts and for all processes that read the same file.

It is beside the annotation file, where every machine that can read the data finds it; where that folder is not
writable, in the user's cache folder or, failing that, in a temporary one. Any of them may be deleted at any time.
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

MIN_FILE_BYTES = 16 * 2**20
"""A smaller annotation file is read in a second or two and not cached."""

_LOCK_TIMEOUT_SECONDS = 600.0
"""After that a process that waits for another one's index reads the annotations itself."""

_LOCK_POLL_SECONDS = 0.05


def cached(file: Path, build: Callable[[], IndexContents], variant: str = "") -> IndexContents:
    """The result of ``build`` for an annotation file, from its cache if that is valid and has the same source.

    Of several processes that need it at the same time, one builds and the others wait. A failure of the cache costs
    time only.

    Args:
        file: the annotation file.
        build: reads it.
        variant: how ``build`` differs from reading the file as it is; another one makes the index stale.

    Raises:
        UserError: raised by ``build``.
    """
    try:
        if file.stat().st_size < MIN_FILE_BYTES:
            return build()
        source = file_digest(file) + variant
    except OSError:
        return build()
    paths = cache_paths(file)
    contents = _read_first(paths, source)
    if contents is None:
        with _exclusive_lock(file):
            contents = _read_first(paths, source) or _build_and_write(file, source, variant, paths, build)
    return contents


def cache_paths(file: Path) -> list[Path]:
    """Possible paths of the index of an annotation file, in order of preference."""
    name = f"{file.stem}-{sha256(os.fsencode(file.resolve())).hexdigest()[:16]}.afictl-index"
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [Path(cache_home) / "afictl", *_private_temporary_folder()]
    return [file.with_name(f"{file.name}.afictl-index"), *(folder / name for folder in folders)]


def _private_temporary_folder() -> list[Path]:
    """A folder of this user in the system's temporary folder, unless another user made it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"afictl-{user}"  # fails where no temporary folder is writable
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return []
    return [folder] if stat.S_ISDIR(status.st_mode) and status.st_uid == user else []


def _read_first(paths: list[Path], source: str) -> IndexContents | None:
    return next(filter(None, (read_index_file(path, source) for path in paths)), None)


def _build_and_write(
    file: Path, source: str, variant: str, paths: list[Path], build: Callable[[], IndexContents]
) -> IndexContents:
    contents = build()
    if file_digest(file) + variant != source:  # changed while it was read
        return contents
    for path in paths:
        with suppress(OSError):  # of a process that was killed before its index was complete
            remove_temporary_files(path.parent, name=path.name)
        try:
            write_index_file(path, source, contents)
        except OSError:
            continue
        return read_index_file(path, source) or contents
    return contents


@contextmanager
def _exclusive_lock(file: Path) -> Iterator[None]:
    """Lock an annotation file, where its file system has locks, against other processes that read it.

    The file itself is locked, which leaves no lock file behind and works in a read-only folder.
    """
    with open(file, "rb") as stream:
        deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
        while fcntl is not None and time.monotonic() < deadline:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_POLL_SECONDS)
            except OSError:  # no locks on this file system
                break
            else:
                break
        yield
