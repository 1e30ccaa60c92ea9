"""Training of runs in separate worker processes, each on one device: in parallel, or one after another.

A worker that crashes or is killed, as by the system when memory runs out, ends its run alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

import torch

from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.experiment.parallel_progress import show_parallel_progress
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.errors import UserError, format_error
from afictl.files import discard_special
from afictl.folder_lock import find_holder
from afictl.run_folder import COMPARISON_SETTINGS

EXIT_LOG_UNWRITABLE = 120
"""Exit code of a worker that cannot print its error; Python exits with it if buffered text cannot be written."""
_POLL_SECONDS = 0.5
_TIMEOUT_SECONDS = 600.0
"""Time for the workers to save their state after an interruption, before they are killed."""
_WORKER_MODULE = "afictl.comparison.experiment.worker"


class WorkerTask(TypedDict):
    """Specification of a run as JSON on the standard input of a worker; an absent path is an empty string."""

    preset: dict[str, object]
    data: str
    name: str
    seed: int
    folder: str
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


def require_devices(devices: str) -> int:
    """Number of parallel runs for ``--devices``.

    Raises:
        UserError: not a number, or more than the GPUs of a machine with GPUs.
    """
    num_gpus = torch.cuda.device_count()
    if devices == "auto":
        return max(1, num_gpus)
    if not devices.isdigit() or not int(devices):
        raise UserError(f"--devices {devices}: with --spread give a number of devices, or 'auto'")
    if num_gpus and int(devices) > num_gpus:
        raise UserError(f"--devices {devices}: this machine has {num_gpus}")
    return int(devices)


@dataclass
class _Worker:
    """A worker process and the run that it trains."""

    run: RunSpecification
    device: int
    process: subprocess.Popen[str]
    output: IO[str]
    """Output of the process, or its errors alone if it prints to the output of this one."""
    log: Path | None
    """File of ``output``; None if that is a temporary one."""

    def close_input(self) -> None:
        """Close the standard input, which interrupts a running worker."""
        if self.process.stdin:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def failure(self) -> str:
        """Error of a process that has ended; empty for success. Prints what it wrote to a temporary file."""
        self.close_input()
        code = self.process.returncode
        with self.output as output:
            if code == EXIT_LOG_UNWRITABLE:
                return f"{self.log or tempfile.gettempdir()}: cannot be written; is the disk full?"
            output.seek(0)
            lines = output.read().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if not self.log:
            print(*(f"{line}\n" for line in lines if not line.startswith("error: ")), sep="", end="", file=sys.stderr)
        if code == 0 or errors:
            return errors[-1] if code else ""
        return _describe_end(code) + (f"; see {self.log}" if self.log else "")


def _describe_end(code: int) -> str:
    """Reason for an exit code of a process that reported no error."""
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as by the system when memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"


def train_in_turn(
    settings: ExperimentSettings, runs: Sequence[RunSpecification], precision: str, log: Callable[[str], None]
) -> dict[str, str]:
    """Train ``runs`` one after another and return the failures: error by run.

    Each process prints to the output of this one; interruption is as in ``train_in_parallel``.
    """
    failures: dict[str, str] = {}
    with _workers() as workers:
        for number, run in enumerate(runs, start=1):
            if is_finished(run.folder) or find_holder(run.folder):  # of another command
                continue
            log(f"\n{run} ({number} of {len(runs)})")
            sys.stdout.flush()
            try:
                workers.append(_start_worker(settings, run, 0, 1, precision))
                workers[0].process.wait()
                failure = workers.pop().failure()
            except OSError as error:
                failure = format_error(error)
            if failure:
                failures[str(run)] = failure
                log(f"{run} failed: {failure}")
    return failures


def train_in_parallel(
    settings: ExperimentSettings, runs: Sequence[RunSpecification], parallel_runs: int, precision: str
) -> dict[str, str]:
    """Train ``runs``, ``parallel_runs`` at a time, and return the failures: error by run.

    Each process prints to ``seedK.txt`` beside its run folder. After Ctrl-C or the end of this process the workers save
    their state and exit.
    """
    failures: dict[str, str] = {}
    waiting_runs, free_devices = list(runs), list(range(parallel_runs))
    with show_parallel_progress(len(runs), settings.preset.train.steps) as progress, _workers() as workers:
        progress.log(f"{parallel_runs} runs at a time, threads of each: {_threads_per_run(parallel_runs)}")
        while waiting_runs or workers:
            while waiting_runs and free_devices:
                run = waiting_runs.pop(0)
                try:
                    log = _log_file(run)
                    worker = _start_worker(settings, run, free_devices[0], parallel_runs, precision, log)
                except OSError as error:  # such as a full disk; running workers may still finish
                    failures[str(run)] = format_error(error)
                    progress.log(f"{run}: failed: {failures[str(run)]}")
                    continue
                workers.append(worker)
                free_devices.remove(worker.device)
                progress.start(str(run), log)
            time.sleep(_POLL_SECONDS if workers else 0)
            for worker in [worker for worker in workers if worker.process.poll() is not None]:
                workers.remove(worker)
                free_devices.append(worker.device)
                failure = worker.failure()
                if failure:
                    failures[str(worker.run)] = failure
                progress.end(str(worker.run), failure)
            progress.update({str(worker.run): worker.run.folder for worker in workers})
    return failures


def _start_worker(
    settings: ExperimentSettings,
    run: RunSpecification,
    device: int,
    parallel_runs: int,
    precision: str,
    log: Path | None = None,
) -> _Worker:
    """Start a process that prints to ``log`` or, without one, to the output of this process."""
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        discard_special(log)
        output: IO[str] = log.open("w+", encoding="utf-8", errors="replace")
    else:
        output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", _WORKER_MODULE],
        stdin=subprocess.PIPE,
        stdout=output if log else None,
        stderr=output,
        text=True,
        env={**os.environ, **_device_variables(device, parallel_runs)},
        start_new_session=True,  # Ctrl-C interrupts this process alone, which then closes the workers' input
    )
    task: WorkerTask = {
        "preset": settings.preset_of(run.method).model_dump(mode="json"),
        "data": str(settings.data),
        "name": run.method,
        "seed": run.seed,
        "folder": str(run.folder),
        "interpolator": run.initial_weights.interpolator,
        "weights": str(run.initial_weights.weights or ""),
        "backbone_weights": str(run.initial_weights.backbone_weights or ""),
        "averaged": run.initial_weights.averaged,
        "precision": precision,
        "classes": list(run.inputs.classes) if run.inputs else [],
        "contents": dict(run.inputs.fingerprints) if run.inputs else {},
        "settings": str(settings.output / COMPARISON_SETTINGS),
        "command": sys.argv,
    }
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the worker has already ended; its exit code is read later
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
    return _Worker(run, device, process, output, log)


def _device_variables(device: int, parallel_runs: int) -> dict[str, str]:
    """Environment variables of a worker: one GPU, if there are any, and an equal part of the threads."""
    threads = {"OMP_NUM_THREADS": str(_threads_per_run(parallel_runs))}
    if not torch.cuda.device_count():
        return threads
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
    return {**threads, "CUDA_VISIBLE_DEVICES": names[device]}


def _threads_per_run(parallel_runs: int) -> int:
    return max(1, torch.get_num_threads() // parallel_runs)


@contextmanager
def _workers() -> Iterator[list[_Worker]]:
    """Yield the list of running workers; at exit they save their state and stop, or are killed by a second Ctrl-C.

    SIGTERM has the effect of Ctrl-C.
    """
    workers: list[_Worker] = []
    try:
        with _sigterm_as_interrupt():
            yield workers
    finally:
        try:
            if workers:
                plural = "s" * (len(workers) > 1)
                print(f"waiting for {len(workers)} run{plural} to save their state", file=sys.stderr)
            for worker in workers:
                worker.close_input()
            deadline = time.monotonic() + _TIMEOUT_SECONDS
            for worker in workers:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired) as error:
            for worker in workers:
                worker.process.kill()
            if isinstance(error, KeyboardInterrupt):  # after a timeout the first exception is raised instead
                raise
        finally:
            for worker in workers:
                worker.output.close()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _log_file(run: RunSpecification) -> Path:
    return run.folder.with_name(f"{run.folder.name}.txt")
