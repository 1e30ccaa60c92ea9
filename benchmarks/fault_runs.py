"""Training commands that faults are injected into, and what is lost in their runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import SoftFileLease

from afictl.errors import UserError
from afictl.run_folder import BEST, CONFIG, LAST, LEASE, METRICS, PREDICTIONS, STATE
from afictl.run_records import read_metrics
from afictl.tensor_files import read_tensors
from benchmarks.results import ROOT

_TIMES = {"seconds_per_step", "data_seconds", "memory_gib"}
_TIMEOUT_SECONDS = 300.0
_PYTHON = [sys.executable, "-m", "afictl"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "afictl"]


@dataclass(frozen=True)
class Command:
    """A training command without ``--output``, and the flags that continue it."""

    words: Sequence[str]
    resume: Sequence[str] = ()
    program: Sequence[str] = tuple(_PYTHON)
    variables: dict[str, str] = field(default_factory=dict)
    """Of its environment."""

    def line(self, output: Path, *, again: bool = False) -> list[str]:
        """The command line; with ``again`` that which continues it."""
        return [*self.program, *self.words, "--output", str(output), *(self.resume if again else ())]

    def start(self, output: Path, *, again: bool = False) -> subprocess.Popen[str]:
        """Start the command, which leads a process group."""
        return start(self.line(output, again=again), **self.variables)

    def finish(self, output: Path, *, again: bool = False) -> float:
        """Run the command to its end; returns its seconds of training.

        Raises:
            UserError: it fails.
        """
        process = self.start(output, again=again)
        wait_until((output / LEASE).exists, process)
        started = time.monotonic()
        code, text = end(process)
        if code:
            raise UserError(f"{' '.join(self.words[:1])} ended with code {code}: {text[-300:]}")
        return time.monotonic() - started


def start(line: Sequence[str], **variables: str) -> subprocess.Popen[str]:
    """Start a program that leads a process group, with this checkout and one thread."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until ``condition`` holds or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.05)


def wait_for_state(output: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a step after the first saved one is done, or the process has ended."""
    wait_until((output / STATE).exists, process)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process; returns its exit code and what it has printed."""
    try:
        text, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        return -signal.SIGKILL, f"{text} no end within {_TIMEOUT_SECONDS:g} s"
    return process.returncode, text


def kill(output: Path, process: subprocess.Popen[str]) -> None:
    """Kill a command and the processes in which it trains."""
    process.kill()
    for lease in output.rglob(LEASE):
        with suppress(OSError):  # it has ended, or was killed while it wrote
            if holder := SoftFileLease(lease).pid:
                os.kill(holder, signal.SIGKILL)
    process.communicate()


def children_of(process: int) -> list[int]:
    """Ids of the processes that a process has started, oldest first, from Linux's list."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def differences(folder: Path, expected: Path) -> list[str]:
    """Files of the runs below ``folder`` that differ from those below ``expected``."""
    return [
        f"{run.relative_to(expected)}/{name}"
        for run in sorted(path.parent for path in expected.rglob(CONFIG))
        for name in (BEST, LAST, PREDICTIONS, METRICS)
        if (run / name).exists() and not _is_equal(folder / run.relative_to(expected) / name, run / name)
    ]


def leftovers(folder: Path) -> list[str]:
    """Drafts and locks that no process uses any more."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def require_line(code: int, text: str, fact: str, expected: int = 2) -> list[str]:
    """A problem unless a command ended with the expected code and one line of error that has ``fact``."""
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    is_line = code == expected and len(errors) == 1 and "Traceback" not in text
    return [] if is_line and fact in errors[0] else [f"code {code}: {text[-200:]}"]


def require_code(code: int, text: str, expected: int) -> list[str]:
    """A problem unless a command ended with the expected code."""
    return [] if code == expected else [f"code {code}: {text[-200:]}"]


def _is_equal(file: Path, expected: Path) -> bool:
    if not file.is_file():
        return False
    if file.name == METRICS:
        first, second = (
            [{k: v for k, v in r.items() if k not in _TIMES} for r in read_metrics(path.parent)]
            for path in (file, expected)
        )
        return first == second
    if file.name == PREDICTIONS:
        return file.read_bytes() == expected.read_bytes()
    first_tensors, second_tensors = read_tensors(file)[0], read_tensors(expected)[0]
    return first_tensors.keys() == second_tensors.keys() and all(
        torch.equal(value, second_tensors[name]) for name, value in first_tensors.items()
    )
