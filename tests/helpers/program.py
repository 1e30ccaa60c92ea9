"""The program in a process of its own, forked from a server that has imported it."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.ranks import FORKS

SECONDS = 120


class Program:
    """A process of ``afictl`` that leads a session and prints to a file."""

    def __init__(self, process, output):
        self._process = process
        self._output = output

    @property
    def pid(self):
        """Id of the process and of its session."""
        return self._process.pid

    def wait_for(self, file):
        """Wait until the program has written ``file``."""
        deadline = time.monotonic() + SECONDS
        while not file.is_file():
            assert self._process.is_alive(), self._output.read_text()
            assert time.monotonic() < deadline, self._output.read_text()
            time.sleep(0.1)

    def end(self):
        """Wait for the end; returns the exit code, negative for a signal, and the output."""
        self._process.join(SECONDS)
        return self._process.exitcode, self._output.read_text()


@contextmanager
def program(words, output: Path, **variables: str) -> Iterator[Program]:
    """The program with a command line of ``words`` and environment ``variables``; its session is killed at the end."""
    process = FORKS.Process(target=_run, args=([*map(str, words)], output, variables))
    process.start()
    try:
        yield Program(process, output)
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def _run(words, output, variables):
    os.setsid()
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= variables
    sys.argv = ["afictl", *words]
    from afictl.cli.main import main

    main()
