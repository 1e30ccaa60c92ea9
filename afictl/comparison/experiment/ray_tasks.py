"""Parallel training of runs, each a task of Ray with its share of CPUs and GPUs."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from afictl.comparison.experiment import ray_node
from afictl.comparison.experiment.comparison_run import is_finished
from afictl.comparison.experiment.ray_cluster import (
    Place,
    Share,
    check_nodes,
    connection,
    describe_error,
    equal_share,
    node_requirements,
    training_nodes,
)
from afictl.comparison.experiment.ray_node import NodeRequirements
from afictl.comparison.experiment.sequential import run_task, sigterm_as_interrupt
from afictl.comparison.experiment.specification import ExperimentSettings, RunSpecification
from afictl.comparison.experiment.spread_progress import SpreadProgress, show_spread_progress
from afictl.errors import format_error
from afictl.files import discard_special
from afictl.folder_lock import find_holder

_MAX_RETRIES = 10
"""Of a run whose node is lost or shut down."""
_POLL_SECONDS = 0.5
_NODE_SECONDS = 5.0
"""Interval of the search for lost nodes."""
_TIMEOUT_SECONDS = 600.0
"""Time for the runs to save their state after an interruption."""
_VARIABLES = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""The process of a run outlives its task, to save its state where a node is lost."""


def train_as_tasks(
    place: Place,
    settings: ExperimentSettings,
    runs: Sequence[RunSpecification],
    precision: str,
    log: Callable[[str], None],
) -> dict[str, str]:
    """Train ``runs`` as tasks of Ray and return the failures: error by run.

    Each run prints to ``seedK.txt`` beside its folder. A run whose node is lost continues on another one from its saved
    state. After Ctrl-C, or the end of this process, the runs save their state and end; a second Ctrl-C does not wait
    for them.

    Raises:
        UserError: as ``connection``, or a node cannot train; raised before any run begins.
    """
    if not runs:
        return {}
    with connection(place) as ray, node_requirements(settings) as requirements:
        nodes = training_nodes(ray)
        share = equal_share(nodes, place.devices)
        check_nodes(ray, nodes, requirements)
        count = sum(share.runs_on(node) for node in nodes)
        machines = f" on {len(nodes)} machines" if len(nodes) > 1 else ""
        log(f"{count} runs at a time{machines}, threads of each: {share.threads}")
        with show_spread_progress(len(runs), settings.preset.train.steps) as progress:
            return _Tasks(ray, share, requirements, progress).train(settings, runs, precision)


class _Tasks:
    """The tasks of all runs and their display."""

    def __init__(self, ray: ModuleType, share: Share, requirements: NodeRequirements, progress: SpreadProgress) -> None:
        self._ray, self._progress = ray, progress
        train = ray.remote(ray_node.train_on_node).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, runtime_env={"env_vars": _VARIABLES}
        )
        self._submit = lambda task, file: train.remote(task, file, share.threads, requirements)
        self._runs: dict[Any, RunSpecification] = {}
        """By task, of those that have not ended."""
        self._retries: Counter[RunSpecification] = Counter()
        self._hosts = self._living_hosts()
        self._checked_hosts = time.monotonic()

    def train(self, settings: ExperimentSettings, runs: Sequence[RunSpecification], precision: str) -> dict[str, str]:
        """Train ``runs`` and return the failures: error by run."""
        failures: dict[str, str] = {}
        begin = partial(self._begin, settings, precision)
        with sigterm_as_interrupt():
            try:
                for run in runs:
                    if is_finished(run.folder) or find_holder(run.folder):  # of another command
                        continue
                    try:
                        _discard_log(run)
                    except OSError as error:
                        self._end(run, format_error(error), failures)
                    else:
                        begin(run)
                while self._runs:
                    for task in self._ray.wait(list(self._runs), timeout=_POLL_SECONDS)[0]:
                        run = self._runs.pop(task)
                        failure, is_lost = self._outcome(task)
                        if is_lost and self._retries[run] < _MAX_RETRIES:
                            self._retries[run] += 1
                            self._progress.log(f"{run}: {failure}; it continues from its saved state")
                            begin(run)
                        else:
                            self._end(run, failure, failures)
                    self._progress.update({str(run): (run.folder, _log_file(run)) for run in self._runs.values()})
                    self._report_lost_nodes()
            except BaseException:
                self._interrupt()
                raise
        return failures

    def _begin(self, settings: ExperimentSettings, precision: str, run: RunSpecification) -> None:
        task = run_task(settings, run, precision, os.path.abspath)
        task["waits"] = self._retries[run] > 0  # as its process on a lost node may still save its state
        self._runs[self._submit(task, os.path.abspath(_log_file(run)))] = run

    def _end(self, run: RunSpecification, failure: str, failures: dict[str, str]) -> None:
        if failure:
            failures[str(run)] = failure
        self._progress.end(str(run), failure, is_finished(run.folder))

    def _outcome(self, task: Any) -> tuple[str, bool]:
        """The error of a task that has ended, empty for success, and whether its node was lost or shut down."""
        try:
            return self._ray.get(task), False
        except self._ray.exceptions.RayTaskError as error:  # raised by the function
            return describe_error(error), isinstance(error.cause, InterruptedError)
        except self._ray.exceptions.RayError as error:
            return describe_error(error), True

    def _report_lost_nodes(self) -> None:
        if time.monotonic() < self._checked_hosts + _NODE_SECONDS:
            return
        hosts = self._living_hosts()
        for node in self._hosts.keys() - hosts.keys():
            self._progress.log(f"node {self._hosts[node]} is lost, {len(training_nodes(self._ray))} left")
        self._hosts, self._checked_hosts = hosts, time.monotonic()

    def _living_hosts(self) -> dict[str, str]:
        """Host of each living node, by the id of the node."""
        return {node["NodeID"]: node["NodeManagerHostname"] for node in self._ray.nodes() if node["Alive"]}

    def _interrupt(self) -> None:
        """Let the running tasks save their state, and wait for them."""
        if count := self._progress.num_running:
            print(f"waiting for {count} run{'s' * (count > 1)} to save their state", file=sys.stderr)
        for task in self._runs:
            self._ray.cancel(task)
        if self._runs:
            self._ray.wait(list(self._runs), num_returns=len(self._runs), timeout=_TIMEOUT_SECONDS)


def _log_file(run: RunSpecification) -> Path:
    return run.folder.with_name(f"{run.folder.name}.txt")


def _discard_log(run: RunSpecification) -> None:
    """Remove the log of an earlier attempt, and whatever a folder from elsewhere has in its place."""
    log = _log_file(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    discard_special(log)
    log.unlink(missing_ok=True)
