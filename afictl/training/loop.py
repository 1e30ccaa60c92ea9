"""The training loop of every stage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from lightning_fabric import Fabric
from torch import Tensor

from afictl.data import TrainBatch
from afictl.distributed import all_gather, is_connection_lost, run_on_rank_zero
from afictl.errors import UserError
from afictl.launchers import agent_of_torchrun, is_launched_externally
from afictl.presets import Recipe
from afictl.progress import ProgressCallback
from afictl.run_folder import BEST
from afictl.training.logger import TrainingLogger
from afictl.training.optimization import (
    TrainableModule,
    learning_rate,
    mean_losses,
    schedule_warnings,
    set_learning_rate,
)
from afictl.training.run_writer import RunWriter
from afictl.training.stage import (
    Metrics,
    Stage,
    TrainingState,
    describe_weights,
    ends_early,
    load_state,
    save_state,
    write_state,
)
from afictl.training.stopping import stop_signals

_TRIAL_STEPS = 100
"""Steps before the first evaluation, up to which it is not tried before the training: a fault shows soon enough."""
_STOP = "must_stop"
_BATCH_NORM_ERROR = "more than 1 value per channel"  # part of torch's message for a batch that is too small


class DivergedError(UserError):
    """A loss, gradient or weight is not finite; raised on all ranks in the same step."""


@dataclass(frozen=True)
class TrainingOutcome:
    """Metrics of the last evaluation, and the duration of all steps in seconds."""

    metrics: Metrics
    seconds: float


def fit(fabric: Fabric, run: RunWriter, recipe: Recipe, stage: Stage, seed: int) -> TrainingOutcome:
    """Train ``stage`` for ``recipe.steps`` steps or until its patience ends, from the run's saved state if it has one.

    On SIGINT, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2 to any rank, at the end of torchrun, and if a rank cannot read its
    next batch, all ranks complete the same step, and the state is saved before they end. An evaluation that was
    interrupted is done first when the run is resumed. A new run whose first evaluation is far tries a small one first.

    Raises:
        UserError: a loss, gradient or weight is not finite, a batch is too small for batch norm, an image cannot be
            read, or the saved state is damaged or belongs to another stage.
        KeyboardInterrupt: a signal requested the end.
    """
    state = load_state(fabric, run, stage, recipe.steps)
    is_evaluated = state.measured == state.step
    run_on_rank_zero(lambda: run.truncate_metrics(state.step, is_evaluated), fabric.global_rank, fabric.world_size)
    if state.step == 0:
        for warning in schedule_warnings(recipe, "train" if stage.name == "stage3" else stage.name):
            run.log(f"note: {warning}")
    with (
        TrainingLogger(run, recipe.steps, state.step, fabric.device) as logger,
        stop_signals(not is_launched_externally(), agent_of_torchrun()) as stop_requested,
        _saved_step_in_log(run),
    ):
        if state.step == 0 and min(recipe.eval_every, recipe.steps) > _TRIAL_STEPS:
            with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
                stage.try_evaluation()
            logger.reset_interval()
        batches = _BatchReader(stage.batches(state.step), logger)
        if 0 < state.step != state.measured:  # perhaps interrupted before or in its evaluation
            _checkpoint_and_evaluate(fabric, run, recipe, stage, state, logger, stop_requested)
        if state.step < recipe.steps and not ends_early(stage, state):
            all_gather(batches.read_or_raise, fabric.world_size)
        for step in range(state.step, recipe.steps):
            if ends_early(stage, state):
                run.log(
                    f"ended early after step {step}: no higher score for {stage.patience} evaluations (train.patience)"
                )
                break
            rate = learning_rate(recipe, step)
            set_learning_rate((trainable.optimizer for trainable in stage.modules.values()), rate)
            _seed_step(seed, step)
            must_stop = partial(_must_stop, stop_requested, batches, is_last=step + 1 == recipe.steps)
            losses, stops = _train_step(stage, batches.current, step + 1, recipe, must_stop)
            state.step = step + 1
            state.seconds += logger.log_step(step + 1, losses, rate)
            if stops:
                _save_and_stop(fabric, run, stage, state, batches)
            _checkpoint_and_evaluate(fabric, run, recipe, stage, state, logger, stop_requested)
    return TrainingOutcome(state.metrics, state.seconds)


class _BatchReader:
    """The batches of this rank, read one step ahead.

    A rank knows that its next batch cannot be read while all ranks still exchange the losses of the current step.
    """

    def __init__(self, batches: Iterator[TrainBatch], logger: TrainingLogger) -> None:
        self.failure: Exception | None = None
        """Why the latest batch could not be read."""
        self._batches = batches
        self._logger = logger
        self._current: TrainBatch | None = None

    @property
    def current(self) -> TrainBatch:
        """The latest batch."""
        assert self._current is not None
        return self._current

    def read(self) -> bool:
        """Read the next batch; False if that fails."""
        try:
            with self._logger.loading():
                self._current = next(self._batches)
        except Exception as error:  # raised on all ranks after the state is saved
            self.failure = error
        return self.failure is None

    def raise_failure(self) -> None:
        """Raise the failure of ``read``, if there is one."""
        if self.failure is not None:
            raise self.failure

    def read_or_raise(self) -> None:
        """Read the next batch and raise a failure."""
        self.read()
        self.raise_failure()


def _must_stop(stop_requested: threading.Event, batches: _BatchReader, is_last: bool) -> bool:
    """Whether this rank asks all ranks to stop after the current step; reads the batch of the next one."""
    can_continue = is_last or batches.read()
    return stop_requested.is_set() or not can_continue


def _save_and_stop(
    fabric: Fabric, run: RunWriter, stage: Stage, state: TrainingState, batches: _BatchReader
) -> NoReturn:
    """Save the state, and raise the failure of any rank, or else ``KeyboardInterrupt``, on all ranks."""
    save_state(fabric, run, stage, state)
    run.log(f"stopped after step {state.step}, which is saved")
    all_gather(batches.raise_failure, fabric.world_size)
    raise KeyboardInterrupt


@contextmanager
def _saved_step_in_log(run: RunWriter) -> Iterator[None]:
    """Log the latest saved step if the connection to another process is lost."""
    try:
        yield
    except RuntimeError as error:
        if is_connection_lost(error):
            saved = "nothing is saved yet" if run.saved_step is None else f"the latest saved step is {run.saved_step}"
            run.log(f"a process of this training has ended; {saved}")
        raise


def _seed_step(seed: int, step: int) -> None:
    """Make every random number of a step a function of seed and step, the same on all ranks.

    A resumed run then needs no saved generator states, and two runs that differ in one module draw the same numbers.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 65_536 % 2**63)


def _train_step(
    stage: Stage, batch: TrainBatch, number: int, recipe: Recipe, must_stop: Callable[[], bool]
) -> tuple[dict[str, float], bool]:
    """Losses of step ``number``, counted from 1, and whether any rank must stop after it.

    Errors name the step and the images of its batch.
    """
    try:
        losses = stage.step(batch)
        return _read_losses(losses, stage.modules, must_stop())
    except FloatingPointError as error:
        ids = ", ".join(map(str, batch.image_ids))
        hint = "lower the learning rate" + (" or set clip_norm" if recipe.clip_norm is None else "")
        raise DivergedError(f"{error} at step {number} (images {ids}): {hint}") from None
    except ValueError as error:
        if _BATCH_NORM_ERROR not in str(error):
            raise
        hint = "train with more images per device, or with larger ones"
        raise UserError(f"step {number}: batch norm got a single value per channel; {hint}") from None


def _read_losses(
    losses: Mapping[str, Tensor], modules: Mapping[str, TrainableModule], must_stop: bool
) -> tuple[dict[str, float], bool]:
    """Means of the losses over all ranks, once the weights are known to be finite, and whether any rank must stop.

    All are read from the device together.

    Raises:
        FloatingPointError: one is not finite; names it, on all ranks.
    """
    norms = {name: trainable.weight_norm() for name, trainable in modules.items()}
    try:
        flag = torch.full((), float(must_stop), device=next(iter(losses.values())).device)
        values = mean_losses({**losses, **norms, _STOP: flag})
    except FloatingPointError:
        mean_losses(losses)
        names = (f"{name}.{trainable.diverged_weight()}" for name, trainable in modules.items())
        name = next((name for name in names if not name.endswith(".")), "the weights")
        raise FloatingPointError(f"the norm of {name} is not finite") from None
    return {name: values[name] for name in losses}, values[_STOP] > 0


def _checkpoint_and_evaluate(
    fabric: Fabric,
    run: RunWriter,
    recipe: Recipe,
    stage: Stage,
    state: TrainingState,
    logger: TrainingLogger,
    stop_requested: threading.Event,
) -> None:
    """Save and evaluate if due after ``state.step``, and stop if a signal requested it.

    The state is saved before the evaluation, which may take long, and again with its metrics.
    """

    def progress(count: int, total: int) -> None:
        logger.log_evaluation(count, total)
        if stop_requested.is_set():
            raise KeyboardInterrupt

    is_last = state.step == recipe.steps
    is_saved = is_last or state.step % recipe.checkpoint_every == 0
    if is_saved:
        save_state(fabric, run, stage, state)
    if not (is_last or state.step % recipe.eval_every == 0):
        return
    try:
        _evaluate(fabric, run, stage, state, logger, progress)
        if any(all_gather(stop_requested.is_set, fabric.world_size)):
            raise KeyboardInterrupt
    except BaseException:
        if fabric.is_global_zero:  # perhaps the only rank that is left
            with suppress(OSError, UserError):  # the first error is raised
                write_state(fabric, run, stage, state)
                run.log(f"stopped after step {state.step}, which is saved")
        raise
    if is_saved or ends_early(stage, state):
        save_state(fabric, run, stage, state)


def _evaluate(
    fabric: Fabric,
    run: RunWriter,
    stage: Stage,
    state: TrainingState,
    logger: TrainingLogger,
    progress: ProgressCallback,
) -> None:
    """Log the metrics of ``state.step``, and export its weights if their score is the highest so far."""
    metrics = dict(stage.evaluate(progress))
    logger.reset_interval()
    score = stage.score(metrics)
    if score >= state.best:
        best = run.folder / BEST
        run_on_rank_zero(
            lambda: stage.export(best, describe_weights(state.step, metrics)), fabric.global_rank, fabric.world_size
        )
    run.log_metrics(state.step, metrics)
    # Only now: a failure above saves the state as not evaluated.
    state.evaluations_since_best = 0 if score > state.best else state.evaluations_since_best + 1
    state.metrics, state.measured, state.best = metrics, state.step, max(score, state.best)
    logged = {name: value for name, value in metrics.items() if name.count("/") == 1 and name.startswith(stage.logged)}
    values = {name: "-" if value is None else f"{value:.4g}" for name, value in logged.items()}
    run.log(f"step {state.step}: " + "  ".join(f"{name} {value}" for name, value in values.items()))
