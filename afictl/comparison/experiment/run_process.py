"""Process that trains one run: a crash, or SIGKILL as by the system when memory runs out, ends this run alone.

The module imports the standard library only, as Ray sends it to processes that import neither torch nor afictl.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TypedDict

EXIT_INTERRUPTED = 130
"""Exit code of a process that has saved its state after a signal or the end of its standard input."""
EXIT_LOG_UNWRITABLE = 120
"""Exit code of a process that cannot print its error; Python exits with it if buffered text cannot be written."""
_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 600.0
"""Time to save the state after an interruption, before the process is killed."""
_MODULE = "afictl.comparison.experiment.worker"


class RunTask(TypedDict):
    """Specification of a run as JSON on the standard input of its process; an absent path is an empty string."""

    preset: dict[str, object]
    data: str
    name: str
    seed: int
    folder: str
    waits: bool
    """Whether to wait for another process that trains the run."""
    interpolator: str | None
    weights: str
    backbone_weights: str
    averaged: bool | None
    precision: str
    classes: list[str]
    """Class names of the comparison in label order."""
    contents: dict[str, str]
    """Fingerprints of the inputs of the run, by name."""
    settings: str
    """``compare.json``."""
    command: list[str]
    """Command line that is recorded in the run."""


class RunProcess:
    """A process that trains a run; on exit of the context it has ended.

    It is interrupted by the end of its standard input, thus also by that of this process. An exception inside the
    context lets it save its state; a second one, or a timeout, kills it.
    """

    def __init__(self, task: RunTask, variables: Mapping[str, str], log: Path | None = None) -> None:
        """Start the process.

        Args:
            task: the run.
            variables: environment variables beside those of this process.
            log: file that its output is appended to; None: it prints to the output of this process.

        Raises:
            OSError: it cannot be started, or ``log`` cannot be opened.
        """
        self._log = log
        self._output: IO[bytes] = log.open("ab+") if log else tempfile.TemporaryFile()  # noqa: SIM115
        self._begin = self._output.seek(0, os.SEEK_END)
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=self._output if log else None,
            stderr=self._output,
            env={**os.environ, **variables},
            start_new_session=True,  # Ctrl-C interrupts this process alone, which then closes the input of that one
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin
        with suppress(BrokenPipeError):  # it has already ended; its exit code is read later
            self._input.write(json.dumps(task).encode() + b"\n")
            self._input.flush()

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process.poll() is None:
                print("waiting for 1 run to save its state", file=sys.stderr)
            self._close_input()
            self._process.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        except KeyboardInterrupt:
            self._process.kill()
            raise
        finally:
            self._output.close()

    def wait(self) -> int:
        """Wait for the end and return the exit code, negative for a signal."""
        while (code := self._process.poll()) is None:
            time.sleep(_POLL_SECONDS)  # in Python, as Ray interrupts nothing else
        return code

    def failure(self) -> str:
        """Wait for the end and return the error; empty for success. Prints other errors unless there is a log."""
        code = self.wait()
        if code == EXIT_LOG_UNWRITABLE:
            return f"{self._log or tempfile.gettempdir()}: cannot be written; is the disk full?"
        self._output.seek(self._begin)
        lines = self._output.read().decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if not self._log:
            print(*(f"{line}\n" for line in lines if not line.startswith("error: ")), sep="", end="", file=sys.stderr)
        if code == 0 or errors:
            return errors[-1] if code else ""
        return _describe_end(code) + (f"; see {self._log}" if self._log else "")

    def _close_input(self) -> None:
        with suppress(BrokenPipeError):
            self._input.close()


def _describe_end(code: int) -> str:
    """Reason for an exit code of a process that reported no error."""
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as by the system when memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"
