"""Cells of a grid side by side: one process for each, on a device of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from afictl.comparison.experiment.comparison_run import EXIT_LOG_UNWRITABLE
from afictl.comparison.experiment.parallel_progress import show_parallel_progress
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.errors import UserError, format_error

_POLL = 0.5
"""Seconds between two looks at the processes."""
_PATIENCE = 600.0
"""Seconds in which the processes must have saved their state when they are told to leave."""
_WORKER = "afictl.comparison.experiment.worker"


def require_devices(text: str) -> int:
    """How many cells ``--devices`` lets run at once.

    Raises:
        UserError: no number, or more than there are GPUs where there are some.
    """
    present = torch.cuda.device_count()
    if text == "auto":
        return max(1, present)
    if not text.isdigit() or not int(text):
        raise UserError(f"--devices {text}: with --spread give a number of devices, or 'auto'")
    if present and int(text) > present:
        raise UserError(f"--devices {text}: this machine has {present}")
    return int(text)


@dataclass
class _Worker:
    """A process and the cell that it trains."""

    job: RunSpecification
    device: int
    process: subprocess.Popen[str]
    output: IO[str]

    @property
    def log(self) -> Path:
        return _log(self.job)


def train_in_parallel(
    grid: ExperimentSettings, jobs: Sequence[RunSpecification], at_once: int, precision: str
) -> dict[str, str]:
    """Train ``jobs``, ``at_once`` at a time; returns what went wrong, by the name of the cell.

    What a process prints is in ``seedK.txt`` beside its run folder. On Ctrl-C, and when this process ends in whatever
    way, the others save their state and end too.
    """
    failures: dict[str, str] = {}
    waiting, free = list(jobs), list(range(at_once))
    with show_parallel_progress(len(jobs), grid.preset.train.steps) as shown, _workers() as running:
        while waiting or running:
            while waiting and free:
                job = waiting.pop(0)
                try:
                    worker = _start(grid, job, free[0], at_once, precision)
                except OSError as error:  # such as a full disk; what runs may still come to its end
                    failures[str(job)] = format_error(error)
                    shown.say(f"{job}: failed: {failures[str(job)]}")
                    continue
                running.append(worker)
                free.remove(worker.device)
                shown.started(str(worker.job), worker.log)
            time.sleep(_POLL if running else 0)
            for worker in [each for each in running if each.process.poll() is not None]:
                running.remove(worker)
                free.append(worker.device)
                problem = _problem(worker)
                if problem:
                    failures[str(worker.job)] = problem
                shown.ended(str(worker.job), problem)
            shown.look({str(worker.job): worker.job.folder for worker in running})
    return failures


def _start(grid: ExperimentSettings, job: RunSpecification, device: int, at_once: int, precision: str) -> _Worker:
    log = _log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    output = log.open("w", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **_place(device, at_once)},
        start_new_session=True,  # Ctrl-C is for this process, which tells the others
    )
    order = {
        "preset": grid.preset.model_dump(mode="json"),
        "data": str(grid.data),
        "name": job.name,
        "seed": job.seed,
        "folder": str(job.folder),
        "interpolator": job.start.interpolator,
        "weights": str(job.start.weights or ""),
        "backbone_weights": str(job.start.backbone_weights or ""),
        "precision": precision,
        "command": sys.argv,
    }
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, which is told with the others
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    return _Worker(job, device, process, output)


def _place(device: int, at_once: int) -> dict[str, str]:
    """The variables that give a process its device and its share of the threads."""
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // at_once))}
    if not torch.cuda.device_count():
        return threads
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
    return {**threads, "CUDA_VISIBLE_DEVICES": names[device]}


@contextmanager
def _workers() -> Iterator[list[_Worker]]:
    """The running processes; those that are left at the end are told to save and leave, a second Ctrl-C kills them."""
    running: list[_Worker] = []
    try:
        yield running
    finally:
        try:
            if running:
                print(f"waiting for {len(running)} runs to save their state", file=sys.stderr)
            for worker in running:
                _close_order(worker)  # which is how they learn that it is over
            deadline = time.monotonic() + _PATIENCE
            for worker in running:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired) as error:
            for worker in running:
                worker.process.kill()
            if isinstance(error, KeyboardInterrupt):  # else what ended the comparison is told, not this
                raise
        finally:
            for worker in running:
                worker.output.close()


def _problem(worker: _Worker) -> str:
    """Why a process that has ended did not do its work; empty where it did."""
    worker.output.close()
    _close_order(worker)
    code = worker.process.returncode
    if code == 0:
        return ""
    if code == EXIT_LOG_UNWRITABLE:
        return f"{worker.log}: cannot be written to, as on a full disk"
    lines = worker.log.read_text(encoding="utf-8", errors="replace").split("\n")
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    return f"its process ended with code {code}; see {worker.log}"


def _close_order(worker: _Worker) -> None:
    if worker.process.stdin:
        with suppress(BrokenPipeError):
            worker.process.stdin.close()


def _log(job: RunSpecification) -> Path:
    return job.folder.with_name(f"{job.folder.name}.txt")
