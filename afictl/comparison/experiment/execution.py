"""Training of all runs of an experiment that are not finished, one after another or in parallel."""

from __future__ import annotations

from collections.abc import Collection

from lightning_fabric import Fabric

from afictl.comparison.experiment.comparison_run import describe_failure, train_run
from afictl.comparison.experiment.parallel import train_in_parallel, train_in_turn
from afictl.comparison.experiment.preconditions import check_experiment
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.run_folder import RESULT
from afictl.training.hardware import hardware_record
from afictl.training.loop import DivergedError


def train_experiment(
    fabric: Fabric, settings: ExperimentSettings, parallel_runs: int = 0, excluded: Collection[str] = ()
) -> dict[str, str]:
    """Train the unfinished runs in ``settings.output`` and return the failures: error by run.

    An interrupted run is continued. A failure does not stop the other runs, except in a run of several processes, of
    which the others would wait for the failed one.

    Args:
        fabric: devices of each run if ``parallel_runs`` is 0.
        settings: the experiment.
        parallel_runs: number of runs to train at once, each in a separate process on one device, whose crash is a
            failure of its run alone; 0: runs are trained in this process.
        excluded: runs that are not tried.

    Raises:
        UserError: invalid or incompatible data, weights, output or interpolator; raised before training.
    """
    unfinished_runs = check_experiment(fabric, settings)
    total = len(settings.runs())
    if len(unfinished_runs) < total:
        fabric.print(f"{total - len(unfinished_runs)} of {total} runs are already finished")
    unfinished_runs = [run for run in unfinished_runs if str(run) not in excluded]
    if unrelated := _unrelated_runs(settings):
        fabric.print(f"finished runs of other methods or seeds are not compared: {', '.join(unrelated)}")
    precision = str(hardware_record(fabric)["precision"])
    if parallel_runs > 1:
        return train_in_parallel(settings, unfinished_runs, parallel_runs, precision)
    if parallel_runs == 1:
        return train_in_turn(settings, unfinished_runs, precision, fabric.print)
    failures = {}
    scaler = fabric.strategy.precision.state_dict()  # of 16-bit gradients; every run starts with the initial one
    for number, run in enumerate(unfinished_runs, start=1):
        fabric.print(f"\n{run} ({number} of {len(unfinished_runs)})")
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
