"""Training of runs one after another, each in a process of its own on the first device."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.experiment.run_process import RunProcess, RunTask
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.errors import format_error
from afictl.folder_lock import find_holder
from afictl.run_folder import COMPARISON_SETTINGS


def train_in_turn(
    settings: ExperimentSettings, runs: Sequence[RunSpecification], precision: str, log: Callable[[str], None]
) -> dict[str, str]:
    """Train ``runs`` one after another and return the failures: error by run.

    Each process prints to the output of this one. After Ctrl-C or the end of this process it saves its state and exits.
    """
    failures: dict[str, str] = {}
    with sigterm_as_interrupt():
        for number, run in enumerate(runs, start=1):
            if is_finished(run.folder) or find_holder(run.folder):  # of another command
                continue
            log(f"\n{run} ({number} of {len(runs)})")
            sys.stdout.flush()
            try:
                with RunProcess(run_task(settings, run, precision), _variables()) as process:
                    failure = process.failure()
            except OSError as error:
                failure = format_error(error)
            if failure:
                failures[str(run)] = failure
                log(f"{run} failed: {failure}")
    return failures


def run_task(
    settings: ExperimentSettings, run: RunSpecification, precision: str, path: Callable[[str | Path], str] = str
) -> RunTask:
    """The specification of a run for its process; ``path`` formats its paths."""
    initial = run.initial_weights
    source = initial.interpolator
    return {
        "preset": settings.preset_of(run.method).model_dump(mode="json"),
        "data": path(settings.data),
        "name": run.method,
        "seed": run.seed,
        "folder": path(run.folder),
        "waits": False,
        "interpolator": path(source) if source and initial.is_trained_interpolator else source,
        "weights": path(initial.weights) if initial.weights else "",
        "backbone_weights": path(initial.backbone_weights) if initial.backbone_weights else "",
        "averaged": initial.averaged,
        "precision": precision,
        "classes": list(run.inputs.classes) if run.inputs else [],
        "contents": dict(run.inputs.fingerprints) if run.inputs else {},
        "settings": path(settings.output / COMPARISON_SETTINGS),
        "command": sys.argv,
    }


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM have the effect of Ctrl-C inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _variables() -> dict[str, str]:
    """Environment variables of a process: the threads of this one and, if there are any, the first GPU."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    if not torch.cuda.device_count():
        return threads
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {**threads, "CUDA_VISIBLE_DEVICES": visible.split(",")[0] if visible else "0"}
