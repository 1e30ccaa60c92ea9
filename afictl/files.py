"""Atomic writing of files, and errors of a full disk that name the file."""

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
from typing import IO

from safetensors import SafetensorError

from afictl.errors import UserError, is_disk_full

_MACHINE = re.sub(r"\W", "-", platform.node())
"""Part of a draft's name, as machines may share a folder and a process id is valid on one machine."""
_DRAFT = re.compile(rf"\.(.+\.(?:json|jsonl|yaml|csv|html|png|svg|zip|pt|safetensors|afictl-index))\.{_MACHINE}\.(\d+)")
_FOLDER_DRAFT = re.compile(rf"\.(.+)\.{_MACHINE}\.(\d+)")
_SAFETENSORS_DRAFT = re.compile(r"\.tmp[0-9A-Za-z]{6}")


def write_text(path: Path, text: str, *, named_by_user: bool = False) -> None:
    """Write a text file atomically; ``named_by_user`` as in ``atomic_write``.

    Raises:
        OSError: with the name of ``path``; an earlier file is kept.
    """
    with atomic_write(path, named_by_user=named_by_user) as draft:
        # a path of the command line may hold bytes that are no text
        draft.write_text(text, encoding="utf-8", errors="replace")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table as CSV atomically; create missing folders.

    Raises:
        OSError: with the name of ``path``; an earlier file is kept.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.getvalue())


@contextmanager
def atomic_write(path: Path, *, named_by_user: bool = False) -> Iterator[Path]:
    """Yield the path of a draft beside ``path``; it replaces ``path`` at the end and is removed after a failure.

    The draft is synced to disk before it is renamed, so that after a power failure the old or the new file exists.
    A link or pipe is replaced too, not followed: a folder from elsewhere cannot choose what is overwritten. Only
    devices, and links and pipes that the user named, such as ``/dev/stdout``, are written directly.

    Args:
        path: file to write.
        named_by_user: whether the user gave this very path, not only its folder.

    Raises:
        OSError: with the name of ``path``, also for errors of other types that libraries raise instead.
    """
    if is_special(path) if named_by_user else _is_device(path):
        with name_file_in_errors(path):
            yield path
        return
    draft = temporary_path(path)
    try:
        with name_file_in_errors(path, draft):
            yield draft
            replace_file(draft, path)
    finally:
        with suppress(OSError):  # the first error is raised, such as a parent that is a file
            draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; it replaces ``folder`` at the end and is removed after a failure.

    Raises:
        OSError: naming ``folder``, if the error names no other file.
    """
    place = folder.absolute()  # the name of "." is empty
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_draft_folders(place)
    draft = temporary_path(place)
    try:
        with name_file_in_errors(folder, draft):
            draft.mkdir()
            yield draft
        if place.exists():
            shutil.rmtree(place)
        os.replace(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_special(path: Path) -> bool:
    """Whether ``path`` is a link, device or pipe, such as ``/dev/stdout``, which must not be replaced by a file."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def _is_device(path: Path) -> bool:
    return path.absolute().parts[1:2] in (("dev",), ("proc",)) or (path.is_char_device() and not path.is_symlink())


def open_to_append(path: Path) -> IO[str]:
    """Open a text file of a run to append to it; a link or pipe in its place is removed, not followed."""
    discard_special(path)
    return path.open("a", encoding="utf-8", errors="replace")


def follow_link(path: Path) -> Path:
    """The file that is written where the user names ``path``: the target of a link, which stays a link."""
    return path.resolve() if path.is_symlink() else path


def discard_special(path: Path) -> None:
    """Remove a link, pipe or socket in the place of a file that is to be opened for writing; devices stay."""
    if path.is_symlink() or path.is_fifo() or path.is_socket():
        path.unlink()


def require_no_link(folder: Path, base: Path) -> None:
    """Check that no folder from ``base``, excluded, to ``folder`` is a link, before results are written there.

    Raises:
        UserError: one is.
    """
    for path in [folder, *folder.parents]:
        if path == base:
            return
        if path.is_symlink():
            target = os.readlink(path)
            raise UserError(f"{path} is a link to {target}: nothing is written outside {base}; remove it")


def temporary_path(path: Path) -> Path:
    """Path of this process's draft of ``path``; see ``remove_temporary_files``."""
    return path.with_name(f".{path.name}.{_MACHINE}.{os.getpid()}")


def is_draft(path: Path) -> bool:
    """Whether ``path`` is a draft of a file or folder by a process of this machine."""
    pattern = _FOLDER_DRAFT if path.is_dir() else _DRAFT
    return pattern.fullmatch(path.name) is not None


def replace_file(draft: Path, path: Path) -> None:
    """Sync a complete draft to disk and rename it to ``path``."""
    with open(draft, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)


def remove_temporary_files(folder: Path, name: str | None = None) -> None:
    """Remove drafts of killed processes of this machine from ``folder``, if it exists.

    Args:
        folder: folder of the drafts.
        name: only drafts of the file of this name are removed; None: all.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        draft = _DRAFT.fullmatch(path.name)
        if draft and name in (None, draft[1]) and not is_running(int(draft[2])):
            path.unlink(missing_ok=True)


def _remove_draft_folders(folder: Path) -> None:
    """Remove drafts of ``folder`` by killed processes of this machine."""
    for path in folder.parent.iterdir():
        draft = _FOLDER_DRAFT.fullmatch(path.name)
        if not draft or draft[1] != folder.name or not path.is_dir() or path.is_symlink():
            continue
        process = int(draft[2])
        if process == os.getpid() or not is_running(process):
            shutil.rmtree(path)


def remove_unfinished_weights(folder: Path) -> None:
    """Remove temporary files of safetensors that killed processes of earlier versions left in ``folder``."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _SAFETENSORS_DRAFT.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


@contextmanager
def name_file_in_errors(path: Path | str, draft: Path | None = None) -> Iterator[None]:
    """Add ``path`` to system errors raised inside, which have no file name or that of its ``draft``.

    Errors of ``write`` have no file name, and safetensors, shutil and torch raise errors of other types.

    Raises:
        OSError: instead of these errors; an error about another file is unchanged, unless a disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = _system_error(error)
        if cause is None or (cause.filename not in (None, str(draft)) and not is_disk_full(cause)):
            raise
        raise OSError(cause.errno, cause.strerror or os.strerror(cause.errno or 0), str(path)) from error


def is_running(process: int) -> bool:
    """Whether a process of this machine has the id ``process`` and has not ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of another user
        return True
    with suppress(OSError):  # of other systems than Linux
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
        return status.rpartition(")")[2].split()[0] != "Z"  # a zombie, of whose end its parent has not yet heard
    return True


def _system_error(error: BaseException) -> OSError | None:
    """The ``OSError`` that ``error`` is, contains as text or was caused by; None for other errors."""
    if isinstance(error, SafetensorError | shutil.Error):
        number = re.search(r"(?:os error |Errno )(\d+)", str(error))
        return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause if cause is not None and cause.errno is not None else None
