"""Locks of output folders: a run has one trainer.

The contract, for every caller on one or on several machines:

- Locked are the folder of a run, by its training (``finetune``, each stage of ``pretrain``, each run of ``compare``),
  and the output folder of ``pretrain`` and ``demo``, by the command. ``compare`` locks its output folder only while it
  checks or writes the files that all runs share, so that several commands can train the runs of one comparison.
  Readers such as ``eval`` lock nothing.
- Rank 0 holds the lock, as it alone writes. A thread may lock a folder that it has locked.
- A lock has two parts. ``.lock`` is locked by the kernel (``flock``), which ends with the process, however that ends,
  and reaches other machines on NFS, Lustre mounted with ``flock``, GPFS and CephFS. A mount may keep it local without
  a word (NFS with ``nolock`` or ``local_lock``, Lustre with ``localflock``) or have none; therefore ``.lock.lease``,
  created exclusively, which NFS guarantees, names host and process of the holder, who renews its time of modification.
- A lease that is left is stale if its process was one of this machine and has ended, or if it is of another machine
  and is not renewed for ``LEASE_SECONDS`` by the clock of the observer. A stale lease is taken over, with a line that
  says so. A holder that finds its lease taken over, as after a suspension, ends at once and writes nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, LeaseCompromise, SoftFileLease, Timeout

from afictl.errors import UserError
from afictl.files import discard_special, is_running
from afictl.run_folder import LEASE, LOCK

T = TypeVar("T")

LEASE_SECONDS = 180.0
"""All versions must agree on it. More than the 60 s for which NFS may show an old time of modification."""
_RENEWAL_SECONDS = 20.0
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_GRACE_SECONDS = 10.0
"""Loader processes of a killed training may hold its lock for some seconds."""
_POLL_SECONDS = 0.1
_WAIT_SECONDS = 1.0
_EXIT_LOST = 2


class FolderInUseError(UserError):
    """Another process has locked the folder."""

    raised_on_all_ranks = True
    """So that a single rank prints it."""


@contextmanager
def locked_folder(folder: Path, rank: int = 0, world_size: int = 1, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of ``folder`` inside the block; all ranks have to call this.

    The folder is created with its parents. If it has no content at the end, what was created is removed.

    Args:
        folder: to lock.
        rank: of this process.
        world_size: number of ranks.
        wait: for the end of another process that has locked it, of which a line tells.

    Yields:
        Whether it waited.

    Raises:
        FolderInUseError: another process has locked it; names folder, host and process id.
        OSError: the folder cannot be created or written to.
    """
    lock, waited = _FolderLock(Path(folder)), False
    while holder := _on_rank_zero(lock.acquire, rank, world_size):
        if not wait:
            raise FolderInUseError(f"{folder}: {holder} writes to it; {_advice(lock)}")
        if not waited and rank == 0:
            print(f"waiting for {holder}, which writes to {folder}", flush=True)
        waited = True
        time.sleep(_WAIT_SECONDS)
    try:
        yield waited
    finally:
        if rank == 0:
            lock.release()


def find_holder(folder: Path) -> str:
    """The process that has locked ``folder``, which may be absent, such as ``process 7 on node3``; empty for none.

    A stale lease has no holder; that of another machine is judged by the clocks of this one and the file server.
    """
    return _FolderLock(folder).find_holder()


def remove_locks(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """Remove the locks of ``folder`` and of all folders below it, and print a line about each; all ranks call this.

    A holder on another machine that still runs ends when it notices, within a minute.

    Raises:
        UserError: a running process of this machine holds one; the locks that were not yet removed stay.
    """

    def remove() -> None:
        for locked in sorted({file.parent for name in (LOCK, LEASE) for file in folder.rglob(name)}):
            _FolderLock(locked).remove()

    _on_rank_zero(remove, rank, world_size)


def _on_rank_zero(action: Callable[[], T], rank: int, world_size: int) -> T:
    """``run_on_rank_zero``, which one process does not need, nor torch."""
    if world_size == 1:
        return action()
    from afictl.distributed import run_on_rank_zero

    return run_on_rank_zero(action, rank, world_size)


class _FolderLock:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder.resolve() / LOCK
        self._kernel_lock = FileLock(self._file, is_singleton=True)  # a thread may acquire it several times
        self._lease = SoftFileLease(
            self._file.with_name(LEASE),
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=_RENEWAL_SECONDS,
            on_compromise=self._end_without_lease,
        )
        self._is_outermost = False
        self._created: list[Path] = []

    def acquire(self) -> str:
        """Acquire the lock; returns the process that has it, empty for success."""
        self._is_outermost = not self._kernel_lock.is_locked
        if not self._is_outermost:
            self._kernel_lock.acquire()
            return ""
        self._created = _create_folders(self._file.parent)
        if not self._wait_for_kernel_lock():
            return self._describe_holder()
        try:
            self._acquire_lease()
        except Timeout:
            holder = self._describe_holder()
            self._kernel_lock.release()
            return holder
        except OSError:  # such as a full disk, which the files of the run tell
            if not self._kernel_lock.is_locked:
                raise
        return ""

    def release(self) -> None:
        if self._is_outermost:
            with suppress(OSError):  # such as a folder that was removed
                self._lease.release()
                self._file.unlink()  # while it is locked: who has opened it by then sees that it is gone
        self._kernel_lock.release()
        with suppress(OSError):  # a folder with content
            for folder in reversed(self._created):
                folder.rmdir()

    def find_holder(self) -> str:
        if self._kernel_lock.is_locked or not (self._file.exists() or self._lease_file.exists()):
            return ""
        if not self._wait_for_kernel_lock():
            return self._describe_holder()
        try:
            seconds = self._seconds_since_renewal() or 0.0
            is_held = self._may_run() if self._is_foreign() or not self._kernel_lock.is_locked else False
            return self._describe_holder() if is_held and seconds < LEASE_SECONDS else ""
        finally:
            self._kernel_lock.release()

    def remove(self) -> None:
        holder = self._describe_holder()
        if not self._acquire_kernel_lock() and self._may_run() and not self._is_foreign():
            raise UserError(f"--force-unlock: {self.folder}: {holder} runs on this machine; end it first")
        for file in (self._lease_file, self._file):
            file.unlink(missing_ok=True)
        self._kernel_lock.release()
        print(f"warning: {self.folder}: lock of {holder} removed", file=sys.stderr)

    @property
    def _lease_file(self) -> Path:
        return self._file.with_name(LEASE)

    def _wait_for_kernel_lock(self) -> bool:
        """Whether the kernel grants its lock; a fork of a process that has ended may have it for another moment."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while not self._acquire_kernel_lock():
            if self._may_run() or time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _acquire_kernel_lock(self) -> bool:
        """Whether the kernel has granted its lock, or has none for this file system."""
        discard_special(self._file)
        try:
            self._kernel_lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _WITHOUT_LOCKS:
                raise
            return True
        if self._file.exists():
            return True
        self._kernel_lock.release()  # of a file that its last holder removed
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return False

    def _acquire_lease(self) -> None:
        """Acquire the lease, also a stale one.

        Raises:
            Timeout: another process has it.
            OSError: it cannot be written.
        """
        discard_special(self._lease_file)
        former = self._describe_holder() if self._lease.owner else ""
        try:
            self._lease.acquire(timeout=_POLL_SECONDS, poll_interval=_POLL_SECONDS / 4)
        except Timeout:
            if self._is_foreign():
                self._wait_for_renewal(former)
            elif self._may_run():
                raise
            else:  # whose parent has not yet noticed its end
                self._lease.force_break()
                self._lease.acquire(timeout=_POLL_SECONDS)
        if former:
            print(f"note: {self.folder}: the lock of {former}, which has ended, is taken over", file=sys.stderr)

    def _wait_for_renewal(self, holder: str) -> None:
        """Acquire a lease of another machine if it is not renewed."""
        print(
            f"note: {self.folder}: locked by {holder}; waiting up to {LEASE_SECONDS:.0f} s for a sign that it runs",
            file=sys.stderr,
        )
        renewed = self._renewed()
        self._lease.acquire(
            timeout=LEASE_SECONDS + _RENEWAL_SECONDS,
            poll_interval=_POLL_SECONDS,
            cancel_check=lambda: self._renewed() not in (renewed, None),
        )

    def _renewed(self) -> float | None:
        """Time of modification of the lease in seconds, by the clock of the file server; None without one."""
        try:
            with self._lease_file.open("rb") as file:  # NFS asks its server for the time when a file is opened
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return None

    def _seconds_since_renewal(self) -> float | None:
        renewed = self._renewed()
        return None if renewed is None else time.time() - renewed

    def _is_foreign(self) -> bool:
        """Whether the lease is of another machine."""
        owner = self._lease.owner
        return owner is not None and _host(owner.hostname) != socket.gethostname()

    def _may_run(self) -> bool:
        """Whether there is a lease of a process that, for all that this machine knows, runs."""
        owner = self._lease.owner
        return owner is not None and (self._is_foreign() or is_running(owner.pid))

    def _describe_holder(self) -> str:
        owner = self._lease.owner
        return f"process {owner.pid} on {_host(owner.hostname)}" if owner else "another process"

    def _end_without_lease(self, loss: LeaseCompromise) -> None:
        """End this process if another one writes to the folder by now."""
        if loss.reason == "owner-changed":
            print(f"error: {self.folder}: {self._describe_holder()} has taken over its lock", file=sys.stderr)
            os._exit(_EXIT_LOST)


def _host(name: str) -> str:
    """Name of a host without the suffix that filelock adds in a container."""
    return name.partition("?")[0] or name


def _advice(lock: _FolderLock) -> str:
    seconds = lock._seconds_since_renewal() or 0.0
    if seconds > LEASE_SECONDS:
        return f"it has given no sign for {seconds / 60:.0f} minutes: if it has ended, --force-unlock removes its lock"
    return "wait until it has ended, or choose another --output"


def _create_folders(folder: Path) -> list[Path]:
    """Create ``folder`` with its parents; returns those that were absent, parents first."""
    absent = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent
