"""Training of all runs of an experiment that are not finished, one after another or in parallel.

Several commands can train the runs of one experiment: each takes those that no other one trains, and waits for the
rest.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from lightning_fabric import Fabric

from afictl.comparison.experiment.comparison_run import describe_failure, is_finished, train_run
from afictl.comparison.experiment.preconditions import check_experiment
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.distributed import run_on_rank_zero
from afictl.errors import one_line
from afictl.folder_lock import find_holder, locked_folder
from afictl.regular_files import read_bounded
from afictl.run_folder import DIVERGED, RESULT
from afictl.training.hardware import hardware_record
from afictl.training.loop import DivergedError

_POLL_SECONDS = 2.0
_MAX_ATTEMPTS = 3
"""More than one where other commands, which are seen to train a run, leave it unfinished."""
_MAX_REASON_BYTES = 2**16


class TrainRuns(Protocol):
    """Function that trains runs of an experiment and returns the failures: error by run.

    It leaves out runs that another command trains or has finished.
    """

    def __call__(
        self,
        settings: ExperimentSettings,
        runs: Sequence[RunSpecification],
        precision: str,
        log: Callable[[str], None],
    ) -> dict[str, str]:
        """Train ``runs`` in ``precision``; ``log`` prints a line."""


def train_experiment(
    fabric: Fabric,
    settings: ExperimentSettings,
    train_runs: TrainRuns | None = None,
    excluded: Collection[str] = (),
) -> dict[str, str]:
    """Train the unfinished runs in ``settings.output`` and return the failures: error by run.

    An interrupted run is continued. A failure does not stop the other runs, except in a run of several processes, of
    which the others would wait for the failed one. Runs that other commands train are waited for, and tried here if
    those commands leave them unfinished.

    Args:
        fabric: devices of each run without ``train_runs``.
        settings: the experiment.
        train_runs: ``train_in_turn`` or ``train_as_tasks``, which train each run in a separate process on one device,
            whose crash is a failure of its run alone; None: runs are trained in this process.
        excluded: runs that are not tried.

    Raises:
        UserError: invalid or incompatible data, weights, output or interpolator; raised before training.
    """
    with locked_folder(settings.output, fabric.global_rank, fabric.world_size, wait=True) as waited:
        unfinished_runs = check_experiment(fabric, settings)
    total = len(settings.runs())
    if len(unfinished_runs) < total:
        fabric.print(f"{total - len(unfinished_runs)} of {total} runs are already finished")
    unfinished_runs = [run for run in unfinished_runs if str(run) not in excluded]
    if unrelated := _unrelated_runs(settings):
        fabric.print(f"finished runs of other methods or seeds are not compared: {', '.join(unrelated)}")
    precision = str(hardware_record(fabric)["precision"])
    if train_runs:
        train = partial(train_runs, settings, precision=precision, log=fabric.print)
    else:
        train = partial(_train_runs, fabric, settings)
    return _train_beside_others(fabric, unfinished_runs, train, shuffled=waited)


def _train_beside_others(
    fabric: Fabric,
    runs: Sequence[RunSpecification],
    train: Callable[[Sequence[RunSpecification]], dict[str, str]],
    shuffled: bool,
) -> dict[str, str]:
    """Train ``runs`` until they are finished or have failed, here or elsewhere; returns the failures: error by run.

    Args:
        fabric: of this process, all ranks of which have to call this.
        runs: that are not finished.
        train: trains runs and returns the failures; leaves out those that another command trains or has finished.
        shuffled: begin in random order, as commands of the same order would meet at each run.
    """
    failures: dict[str, str] = {}
    share = partial(run_on_rank_zero, rank=fabric.global_rank, world_size=fabric.world_size)
    former = share(lambda: {run: _divergence(run) for run in runs})
    pending, description, attempts = list(runs), "", Counter[RunSpecification]()
    while pending:
        free, locked, diverged = share(partial(_divide, pending, former, shuffled))
        failures |= diverged
        if free:
            failures |= train(free)
            attempts.update(free)
            failures |= {str(run): "ended without a result" for run in free if attempts[run] > _MAX_ATTEMPTS}
            shuffled = True
        elif locked:
            if description != (description := ", ".join(f"{run} ({holder})" for run, holder in locked.items())):
                fabric.print(f"waiting for runs that other commands train: {description}")
            time.sleep(_POLL_SECONDS)
        pending = [run for run in (*free, *locked) if str(run) not in failures]
    return share(lambda: {str(run): failures[str(run)] for run in runs if _has_failed(run, failures)})


def _divide(
    runs: Sequence[RunSpecification], former: Mapping[RunSpecification, int], shuffled: bool
) -> tuple[list[RunSpecification], dict[RunSpecification, str], dict[str, str]]:
    """Divide the unfinished ones of ``runs``.

    Args:
        runs: of the experiment.
        former: ``_divergence`` of each at the start.
        shuffled: whether the order of free runs is random although all are free.

    Returns:
        The runs that no command trains, the process by run of the others, and the errors of those that have diverged
        elsewhere since the start.
    """
    unfinished = [run for run in runs if not is_finished(run.folder)]
    locked = {run: holder for run in unfinished if (holder := find_holder(run.folder))}
    diverged = {str(run): _reason(run.folder) for run in unfinished if _divergence(run) > former[run]}
    free = [run for run in unfinished if run not in locked and str(run) not in diverged]
    if shuffled or locked:
        free = random.SystemRandom().sample(free, len(free))
    return free, locked, {run: reason for run, reason in diverged.items() if run not in map(str, locked)}


def _has_failed(run: RunSpecification, failures: Mapping[str, str]) -> bool:
    """Whether a run failed here, and no other command has finished it since."""
    return str(run) in failures and not is_finished(run.folder)


def _divergence(run: RunSpecification) -> int:
    """When the run diverged, in nanoseconds; 0 for one that did not."""
    try:
        return (run.folder / DIVERGED).stat().st_mtime_ns
    except OSError:
        return 0


def _reason(folder: Path) -> str:
    return one_line(read_bounded(folder / DIVERGED, _MAX_REASON_BYTES).decode(errors="replace"))


def _train_runs(fabric: Fabric, settings: ExperimentSettings, runs: Sequence[RunSpecification]) -> dict[str, str]:
    """Train runs one after another in this process and return the failures: error by run."""
    failures = {}
    scaler = fabric.strategy.precision.state_dict()  # of 16-bit gradients; every run starts with the initial one
    for number, run in enumerate(runs, start=1):
        fabric.print(f"\n{run} ({number} of {len(runs)})")
        fabric.strategy.precision.load_state_dict(scaler)
        if failure := _train_run(fabric, settings, run):
            fabric.print(f"{run} failed: {failure}")
            failures[str(run)] = failure
    return failures


def _unrelated_runs(settings: ExperimentSettings) -> list[str]:
    """Finished runs of other methods or seeds in ``settings.output``."""
    folders = {run.folder for run in settings.runs()}
    finished = sorted(file.parent for file in settings.output.glob(f"*/seed*/{RESULT}"))
    return [str(folder.relative_to(settings.output)) for folder in finished if folder not in folders]


def _train_run(fabric: Fabric, settings: ExperimentSettings, run: RunSpecification) -> str:
    """Train a run and return its error; empty for success."""
    try:
        train_run(fabric, settings.preset_of(run.method), settings.data, run)
    except DivergedError as error:
        return str(error)
    except Exception as error:
        if fabric.world_size > 1:
            raise
        return describe_failure(error, run.folder)
    return ""
