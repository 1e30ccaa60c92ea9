"""Seconds of short commands, each in a new process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.results import ROOT
from benchmarks.speed.machine import Machine
from benchmarks.speed.rows import SpeedRow, alternate, timed_row

PART = "startup"
_COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import afictl'": ("-c", "import afictl"),
    "afictl --help": ("-m", "afictl", "--help"),
    "afictl model list": ("-m", "afictl", "model", "list"),
}
_SECONDS = 15.0


def measure_startup(machine: Machine) -> Iterator[list[SpeedRow]]:
    """A row for each command."""
    runs = {name: partial(_run, arguments) for name, arguments in _COMMANDS.items()}
    if not machine.short:
        for run in runs.values():
            run()  # reads the files from the disk
    times = alternate(runs, torch.device("cpu"), _SECONDS, machine.short)
    for name, seconds in times.items():
        yield [timed_row(PART, name, "", "", seconds)]


def _run(arguments: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=ROOT, check=True)
