"""Worker processes of a ``DataLoader``: the wait for their batches, their loss, their signals and their end.

torch waits for a worker without end: for a batch, for the connection through which its memory is sent, and for a lock
that it held when it was killed. Here a thread watches these waits and kills workers that send nothing, which ends the
wait of the main thread, and workers that do not end by themselves are killed.

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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeAlias
from weakref import WeakSet

from torch.utils import data

from afictl.data.shared_memory import prepare_sending
from afictl.errors import UserError

_Request: TypeAlias = list[Any]
"""What the samples of one batch are made from."""

_NOTICE_SECONDS = 60.0
"""Wait for a batch after which a note is printed."""
_START_SECONDS = 20.0
"""Wait for a batch after which the workers are started again if one has not run yet."""
_RESTART_SECONDS = 180.0
"""Wait for a batch after which the workers are started again in any case, once."""
_MAX_RESTARTS = 3
_LIMIT_SECONDS = 900.0
"""Wait for a batch of restarted workers after which the reading fails; below the 1,800 s that other ranks wait."""
_POLL_SECONDS = 0.5
"""Period in which the wait for a batch is checked."""
_END_SECONDS = 30.0
"""Time for the workers of a loader to end by themselves."""
_EXIT_SECONDS = 5.0
"""Time for the workers that are left at the exit of the process."""
_PARENT_SECONDS = 2.0
"""Period in which a worker notices the end of its parent."""
_ADVICE = "check the storage of the images, or read without further processes: --set loader.workers=0"

_workers: WeakSet[BaseProcess] = WeakSet()
"""All workers of this process, which are ended at its exit."""


class _SilentWorkersError(Exception):
    """The workers were killed because they sent nothing for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def read_batches(
    make_loader: Callable[[Iterable[_Request], Callable[[int], None]], data.DataLoader[Any]],
    requests: Iterable[_Request],
    describe: Callable[[_Request], str],
) -> Iterator[Any]:
    """The batch of each request, in order.

    Workers that send nothing for a time are killed, and new ones read the batches that are missing; a batch is a
    function of its request, so that it does not depend on this.

    Args:
        make_loader: returns a loader of the batches of requests, with a function that initialises its workers.
        requests: consumed a few ahead of the batches.
        describe: the first image of a request, for messages.

    Raises:
        UserError: the new workers send nothing either.
        RuntimeError: a worker was killed.
    """
    open_requests = _OpenRequests(requests)
    limit, restarts = _RESTART_SECONDS, 0
    while True:
        starts, sender = Pipe(duplex=False)
        loader = make_loader(open_requests, partial(_init_worker, sender))
        try:
            for batch in _batches_of(loader, starts, limit, lambda: open_requests.describe(describe)):
                open_requests.complete()
                yield batch
            return
        except _SilentWorkersError as error:
            reason = f"the reading processes have sent nothing for {error.seconds:.0f} s"
            image = open_requests.describe(describe)
            if error.seconds >= _LIMIT_SECONDS or restarts == _MAX_RESTARTS:
                raise UserError(f"{reason}{image}; {_ADVICE}") from None
            _print_note(f"{reason}{image}; they are started again")
            limit = _LIMIT_SECONDS if error.seconds >= limit else limit
            restarts += 1


class _OpenRequests:
    """Requests in order; every iteration begins with those that have no batch yet."""

    def __init__(self, requests: Iterable[_Request]) -> None:
        self._later_requests = iter(requests)
        self._open: deque[_Request] = deque()

    def __iter__(self) -> Iterator[_Request]:
        yield from tuple(self._open)
        for request in self._later_requests:
            self._open.append(request)
            yield request

    def complete(self) -> None:
        """The first open request has its batch."""
        self._open.popleft()

    def describe(self, describe: Callable[[_Request], str]) -> str:
        """The first image that is missing, as the end of a message; empty for none."""
        first = next(iter(tuple(self._open)), None)
        return f" (images from {describe(first)} on)" if first else ""


def _batches_of(
    loader: data.DataLoader[Any], starts: Connection, limit: float, describe_next: Callable[[], str]
) -> Iterator[Any]:
    """The batches of one loader.

    Raises:
        _SilentWorkersError: no batch for ``limit`` seconds, or a worker does not start.
        RuntimeError: a worker was killed.
    """
    if not loader.num_workers:
        yield from loader
        return
    batches: Any = iter(loader)  # its type is private
    _workers.update(batches._workers)
    try:
        with _Watch(batches._workers, starts, limit, describe_next) as watch:
            while (batch := _next_batch(batches, watch)) is not None:
                yield batch
    finally:
        _end_workers(batches)


def _next_batch(batches: Iterator[Any], watch: _Watch) -> Any:
    """The next batch; None at the end."""
    try:
        with watch.waiting(), _lost_workers_raised():
            return next(batches, None)
    except Exception as error:
        if watch.has_killed:  # which ends the wait by an exception of any kind
            raise _SilentWorkersError(watch.seconds) from error
        raise


class _Watch:
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

    def __enter__(self) -> _Watch:
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
                _print_note(f"waiting for the reading processes for {self.seconds:.0f} s{self._describe_next()}")
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


def _print_note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


@contextmanager
def _lost_workers_raised() -> Iterator[None]:
    """The loss of a worker is raised inside and nowhere else.

    torch raises it in its handler of SIGCHLD, wherever the main thread is at that time: between two collectives,
    or between the updates of two networks. Here the handler is in place only while the main thread waits for a batch.
    A signal that arrives just before the wait does not end it; then torch notices the loss within 5 seconds.
    """
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return
    handler = _take_child_handler()
    try:
        signal.signal(signal.SIGCHLD, handler)
        signal.raise_signal(signal.SIGCHLD)  # for a worker that was lost meanwhile
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@cache
def _take_child_handler() -> Any:
    """The handler that torch sets once, with the first workers of a process; removes it."""
    handler = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return handler


def _end_workers(batches: Any) -> None:
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
    workers = [worker for worker in _workers if worker.is_alive()]
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + _EXIT_SECONDS
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    _kill(workers)


atexit.register(_end_at_exit, os.getpid())  # runs before that of multiprocessing, which is registered earlier


def _init_worker(sender: Connection, worker: int) -> None:
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
