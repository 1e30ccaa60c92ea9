"""Worker processes of a ``DataLoader``: their start, the watch over the wait for them, their signals and their end.

A worker that is forked while another thread, such as one of gloo after a collective, enters Python may wait for a lock
of the interpreter that nobody releases in it (``HEAD_LOCK``, CPython's issue 112275, before 3.12). It never runs, so
that workers report their start.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any
from weakref import WeakSet

from afictl.data.shared_memory import prepare_sending

_NOTICE_SECONDS = 60.0
"""Wait for a batch after which a note is printed."""
_START_SECONDS = 20.0
"""Wait for a batch after which the workers are started again if one has not run yet."""
_POLL_SECONDS = 0.5
"""Period in which the wait for a batch is checked."""
_END_SECONDS = 30.0
"""Time for the workers of a loader to end by themselves."""
_EXIT_SECONDS = 5.0
"""Time for the workers that are left at the exit of the process."""
_PARENT_SECONDS = 2.0
"""Period in which a worker notices the end of its parent."""

all_workers: WeakSet[BaseProcess] = WeakSet()
"""Workers of this process, which are ended at its exit."""


class WorkerWatch:
    """A thread that prints a note about a long wait for workers and kills them at the limit.

    Only time in which the thread runs is counted: a job that was suspended has not waited.

    Args:
        workers: the processes that are waited for.
        starts: receives a message of each worker that runs.
        limit: seconds.
        describe_next: what is waited for, as the end of a message.
    """

    def __init__(
        self, workers: Sequence[BaseProcess], starts: Connection, limit: float, describe_next: Callable[[], str]
    ) -> None:
        self.has_killed = False
        self.seconds = 0.0
        """Length of the latest wait."""
        self._workers, self._starts, self._limit, self._describe_next = workers, starts, limit, describe_next
        self._num_started = 0
        self._is_waiting = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> WorkerWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The main thread waits inside."""
        self.seconds, self._is_waiting = 0.0, True
        try:
            yield
        finally:
            self._is_waiting = False

    def _run(self) -> None:
        is_said = False
        last = time.monotonic()
        while not self._ends.wait(_POLL_SECONDS):
            now = time.monotonic()
            self.seconds += min(now - last, 2 * _POLL_SECONDS)
            last = now
            if not self._is_waiting:
                is_said = False
                continue
            if self.seconds >= _NOTICE_SECONDS and not is_said:
                is_said = True
                print_note(f"waiting for the reading processes for {self.seconds:.0f} s{self._describe_next()}")
            if self.seconds >= self._limit or (self.seconds >= _START_SECONDS and not self._have_started()):
                self.has_killed = True
                for worker in self._workers:
                    worker.kill()
                return

    def _have_started(self) -> bool:
        """Whether all workers run."""
        while self._num_started < len(self._workers) and self._starts.poll():
            self._starts.recv_bytes()
            self._num_started += 1
        return self._num_started == len(self._workers)


def print_note(text: str) -> None:
    """Print a line to standard error, which all ranks and commands have."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def end_workers(batches: Any) -> None:
    """Shut an iterator of a ``DataLoader`` down, and kill the workers that do not end.

    The shutdown waits without end for a lock that a worker held when it was killed, hence the thread. At the end of the
    interpreter, when no thread can start, the workers have ended already.
    """
    if sys.is_finalizing():
        return
    shutdown = threading.Thread(target=batches._shutdown_workers, daemon=True)
    shutdown.start()
    shutdown.join(_END_SECONDS)
    _kill(batches._workers)


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join(_EXIT_SECONDS)


def _end_at_exit(process: int) -> None:
    """End the workers that are left; multiprocessing would wait for them without end."""
    if os.getpid() != process:
        return
    workers = [worker for worker in all_workers if worker.is_alive()]
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + _EXIT_SECONDS
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    _kill(workers)


atexit.register(_end_at_exit, os.getpid())  # runs before that of multiprocessing, which is registered earlier


def init_worker(sender: Connection, worker: int) -> None:
    """In a worker: ignore signals that Ctrl-C, schedulers and ``kill`` of a process group send to workers too.

    The main process may need further batches before it ends. A SIGTERM from the main process still ends a worker, and
    a worker ends soon after the main process, also if it is blocked.
    """
    prepare_sending()
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    sender.send_bytes(b"start")


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_SECONDS)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
