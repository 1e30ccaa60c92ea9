"""Locks of output folders: a run has one trainer, a comparison one command.

The contract, for every caller on one or on several machines:

- Locked are the folder of a run, by its training (``finetune``, each stage of ``pretrain``, each run of ``compare``),
  and the output folder of ``pretrain``, ``compare`` and ``demo``, by the command. The processes in which one comparison
  trains its runs lock their runs; the command alone locks the comparison. Readers such as ``eval`` lock nothing.
- Rank 0 holds the lock, as it alone writes. A thread may lock a folder that it has locked.
- The lock is the kernel's (``flock`` of the file ``.lock``): it ends with the process, however that ends, and is never
  stale. ``.lock.json`` beside it names the holder for the message to others, and decides nothing.
- NFS, Lustre (mounted with ``flock``), GPFS and CephFS pass the lock to the server, so that it excludes other machines
  too. Where the file system has no locks, a line says so, and nothing is excluded.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError
from afictl.files import discard_special, is_running, write_text
from afictl.json_files import read_json
from afictl.run_folder import HOLDER, LOCK

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_GRACE_SECONDS = 10.0
"""Loader processes of a killed training may hold its lock for some seconds."""
_POLL_SECONDS = 0.1


class FolderInUseError(UserError):
    """Another process has locked the folder."""


@contextmanager
def locked_folder(folder: Path, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """Hold the lock of ``folder`` inside the block; all ranks have to call this.

    The folder is created with its parents. If it has no content at the end, what was created is removed.

    Raises:
        FolderInUseError: another process has locked it; names folder, host and process id, on all ranks.
        OSError: the folder cannot be created or written to.
    """
    lock = _FolderLock(Path(folder))
    run_on_rank_zero(lock.acquire, rank, world_size)
    try:
        yield
    finally:
        if rank == 0:
            lock.release()


def require_unlocked(folder: Path) -> None:
    """Check that no other process has locked ``folder``, which may be absent.

    Raises:
        FolderInUseError: one has.
    """
    if (folder / LOCK).exists():
        with locked_folder(folder):
            pass


class _FolderLock:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder.resolve() / LOCK
        self._lock = FileLock(self._file, is_singleton=True)  # a thread may acquire it several times
        self._is_outermost = False
        self._created: list[Path] = []

    def acquire(self) -> None:
        self._is_outermost = not self._lock.is_locked
        if not self._is_outermost:
            self._lock.acquire()
            return
        self._created = _create_folders(self._file.parent)
        deadline = time.monotonic() + _GRACE_SECONDS
        while not self._try_acquire():
            holder = _read_holder(self._file.with_name(HOLDER))
            if (holder and holder.may_run) or time.monotonic() > deadline:
                raise FolderInUseError(_describe_use(self.folder, holder))
            time.sleep(_POLL_SECONDS)
        with suppress(OSError):  # such as a full disk, which the files of the run tell
            write_text(self._file.with_name(HOLDER), json.dumps(_Holder(platform.node(), os.getpid())._asdict()))

    def release(self) -> None:
        if self._is_outermost:
            with suppress(OSError):  # such as a folder that was removed
                self._file.with_name(HOLDER).unlink(missing_ok=True)
                self._file.unlink()  # while it is locked: who has opened it by then sees that it is gone
        self._lock.release()
        with suppress(OSError):  # a folder with content
            for folder in reversed(self._created):
                folder.rmdir()

    def _try_acquire(self) -> bool:
        discard_special(self._file)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _WITHOUT_LOCKS:
                raise
            print(
                f"warning: {self.folder}: on a file system without locks; start no other command on it", file=sys.stderr
            )
            return True
        if self._file.exists():
            return True
        self._lock.release()  # of a file that its last holder removed
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return False


class _Holder(NamedTuple):
    host: str
    process: int

    @property
    def may_run(self) -> bool:
        """False for a process of this machine that has ended."""
        return self.host != platform.node() or is_running(self.process)


def _read_holder(file: Path) -> _Holder | None:
    try:
        content = read_json(file)
        return _Holder(str(content["host"]), int(content["process"]))
    except (ValueError, TypeError, KeyError, OverflowError):  # not yet written, or damaged
        return None


def _describe_use(folder: Path, holder: _Holder | None) -> str:
    name = f"process {holder.process} on {holder.host}" if holder else "another process"
    return f"{folder}: {name} writes to it; wait until it has ended, or choose another --output"


def _create_folders(folder: Path) -> list[Path]:
    """Create ``folder`` with its parents; returns those that were absent, parents first."""
    absent = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent
