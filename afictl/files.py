"""Files written whole or not at all, and errors of a full disk that name the file."""

from __future__ import annotations

import csv
import io
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from afictl.errors import is_disk_full

_MACHINE = re.sub(r"\W", "-", platform.node())
"""Part of a draft's name: a folder may be shared by machines, where numbers of processes mean nothing to the others."""
_DRAFT = re.compile(rf"\.(.+\.(?:json|jsonl|yaml|csv|html|png|svg|zip|pt|safetensors|afictl-index))\.{_MACHINE}\.(\d+)")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing.

    Raises:
        OSError: naming ``path``; what was there before stays.
    """
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table as CSV, whole or not at all, with the folders that it is in.

    Raises:
        OSError: naming ``path``; what was there before stays.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.getvalue())


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """The name of a draft beside ``path``, which takes its place at the end and is removed after a failure.

    The draft is on its disk before it gets the name, so that a power failure leaves the old file or the new one.
    Links, devices and pipes, such as ``/dev/stdout``, are written to directly.

    Raises:
        OSError: naming ``path``, also for what libraries raise in its stead inside.
    """
    if is_special(path):
        with name_file_in_errors(path):
            yield path
        return
    draft = temporary_path(path)
    try:
        with name_file_in_errors(path, draft):
            yield draft
            replace_file(draft, path)
    finally:
        with suppress(OSError):  # what came first counts, such as a parent that is a file
            draft.unlink(missing_ok=True)


def is_special(path: Path) -> bool:
    """Whether it stands for something that must not be replaced by a file, such as ``/dev/stdout``."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def temporary_path(path: Path) -> Path:
    """The name under which this process writes what is to become ``path``; see ``remove_temporary_files``."""
    return path.with_name(f".{path.name}.{_MACHINE}.{os.getpid()}")


def replace_file(draft: Path, path: Path) -> None:
    """Give a finished draft its name, once it is on its disk."""
    with open(draft, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)


def remove_temporary_files(folder: Path, of: str | None = None) -> None:
    """Remove the drafts in ``folder`` of this machine's killed processes; nothing where there is no such folder.

    With ``of`` only those of the file of this name, in a folder that is not the program's own.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _DRAFT.fullmatch(path.name)
        if found and of in (None, found[1]) and not _is_running(int(found[2])):
            path.unlink(missing_ok=True)


@contextmanager
def name_file_in_errors(path: Path | str, draft: Path | None = None) -> Iterator[None]:
    """Let an error of the system inside say that it was about ``path``, also where it names the ``draft`` of it.

    A write names no file; safetensors and shutil have errors of their own; torch reports the position in a file where
    it found itself.

    Raises:
        OSError: for each of them; one that names a file keeps its name, unless a disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        found = _system_error(error)
        if found is None or (found.filename not in (None, str(draft)) and not is_disk_full(found)):
            raise
        raise OSError(found.errno, found.strerror or os.strerror(found.errno or 0), str(path)) from error


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _system_error(error: BaseException) -> OSError | None:
    """The error of the system that an error is, hides or tells of."""
    if isinstance(error, SafetensorError | shutil.Error):
        number = re.search(r"(?:os error |Errno )(\d+)", str(error))
        return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause if cause is not None and cause.errno is not None else None
