"""Signals, and the loss of the launcher, that request a training to save its state and stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
"""SIGUSR1 and SIGUSR2 are for schedulers, such as SLURM's ``--signal=USR1@120``; SIGHUP is the end of a terminal.
Windows lacks the last three."""
_OUTPUTS = (1, 2)
"""File descriptors that may be a terminal."""
_REPETITION_SECONDS = 1.0
"""A signal that is repeated sooner is the same request: Ctrl-C reaches a process directly and through its launcher."""


class _StopRequest(threading.Event):
    """Set by a signal, or by the end of the parent process ``parent``, if it is not None."""

    def __init__(self, parent: int | None) -> None:
        super().__init__()
        self._parent = parent

    def is_set(self) -> bool:
        """Whether the training is to stop."""
        return super().is_set() or (self._parent is not None and os.getppid() != self._parent)


@contextmanager
def stop_signals(repetition_ends: bool, parent: int | None = None) -> Iterator[threading.Event]:
    """An event that the first signal sets; SIGHUP stays ignored where it is, as by ``nohup``.

    Args:
        repetition_ends: whether SIGINT or SIGTERM has its usual effect when it is repeated. Launchers repeat signals;
            they send SIGKILL to processes that do not end.
        parent: id of the parent process, whose end is a request, too. torchrun ends by SIGUSR1 and SIGUSR2 without a
            word to the processes that it has started.
    """
    stop_requested = _StopRequest(parent)
    if threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name) and not _is_ignored(name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    terminals = [output for output in _OUTPUTS if os.isatty(output)]
    requested_at = 0.0

    def restore_handlers() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def request_stop(number: int, frame: object) -> None:
        nonlocal requested_at
        if signal.Signals(number).name == "SIGHUP":
            _discard_output(terminals)
        if not stop_requested.is_set():
            requested_at = time.monotonic()
            stop_requested.set()
        elif (
            repetition_ends
            and number in (signal.SIGINT, signal.SIGTERM)
            and time.monotonic() > requested_at + _REPETITION_SECONDS
        ):
            restore_handlers()
            signal.raise_signal(number)

    for number in numbers:
        signal.signal(number, request_stop)
    try:
        yield stop_requested
    finally:
        restore_handlers()


def _is_ignored(name: str) -> bool:
    """Whether the signal is SIGHUP and the process was started to ignore it."""
    return name == "SIGHUP" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _discard_output(terminals: list[int]) -> None:
    """Let later output go nowhere: to write to a terminal that has ended is an error."""
    with open(os.devnull, "wb") as nowhere:
        for terminal in terminals:
            os.dup2(nowhere.fileno(), terminal)
