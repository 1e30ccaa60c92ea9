"""Batches of a ``DataLoader`` whose workers may be lost, or send nothing.

torch waits for a worker without end: for a batch, for the connection through which its memory is sent, and for a lock
that it held when it was killed. Here a thread watches these waits and kills workers that send nothing, which ends the
wait of the main thread; other workers then read what is missing.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from torch.utils import data

from afictl.data.worker_processes import WorkerWatch, all_workers, end_workers, init_worker, print_note
from afictl.errors import UserError

_Request: TypeAlias = list[Any]
"""What the samples of one batch are made from."""

_RESTART_SECONDS = 180.0
"""Wait for a batch after which the workers are started again in any case, once."""
_MAX_RESTARTS = 3
_LIMIT_SECONDS = 900.0
"""Wait for a batch of restarted workers after which the reading fails; below the 1,800 s that other ranks wait."""


class _SilentWorkersError(Exception):
    """The workers were killed because they sent nothing for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def read_batches(
    make_loader: Callable[[Iterable[_Request], Callable[[int], None]], data.DataLoader[Any]],
    requests: Iterable[_Request],
    describe: Callable[[_Request], str],
    advice: str,
) -> Iterator[Any]:
    """The batch of each request, in order.

    Workers that send nothing for a time are killed, and new ones read the batches that are missing; a batch is a
    function of its request, so that it does not depend on this.

    Args:
        make_loader: returns a loader of the batches of requests, with a function that initialises its workers.
        requests: consumed a few ahead of the batches.
        describe: the first image of a request, for messages.
        advice: the end of the error about workers that send nothing.

    Raises:
        UserError: the new workers send nothing either.
        RuntimeError: a worker was killed.
    """
    open_requests = _OpenRequests(requests)
    limit, restarts = _RESTART_SECONDS, 0
    while True:
        starts, sender = Pipe(duplex=False)
        with _more_workers_than_cores():
            loader = make_loader(open_requests, partial(init_worker, sender))
        try:
            for batch in _batches_of(loader, starts, limit, lambda: open_requests.describe(describe)):
                open_requests.complete()
                yield batch
            return
        except _SilentWorkersError as error:
            reason = f"the reading processes have sent nothing for {error.seconds:.0f} s"
            image = open_requests.describe(describe)
            if error.seconds >= _LIMIT_SECONDS or restarts == _MAX_RESTARTS:
                raise UserError(f"{reason}{image}; {advice}") from None
            print_note(f"{reason}{image}; they are started again")
            limit = _LIMIT_SECONDS if error.seconds >= limit else limit
            restarts += 1


@contextmanager
def _more_workers_than_cores() -> Iterator[None]:
    """torch warns where there are more workers than cores, which is of use where the storage is slow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


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
    with _more_workers_than_cores():
        batches: Any = iter(loader)  # its type is private
    all_workers.update(batches._workers)
    try:
        with WorkerWatch(batches._workers, starts, limit, describe_next) as watch:
            while (batch := _next_batch(batches, watch)) is not None:
                yield batch
    finally:
        end_workers(batches)


def _next_batch(batches: Iterator[Any], watch: WorkerWatch) -> Any:
    """The next batch; None at the end."""
    try:
        with watch.waiting(), _lost_workers_raised():
            return next(batches, None)
    except Exception as error:
        if watch.has_killed:  # which ends the wait by an exception of any kind
            raise _SilentWorkersError(watch.seconds) from error
        raise


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
