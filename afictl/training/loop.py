"""The training loop of every stage."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from afictl.data import TrainBatch
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError
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
from afictl.training.stage import Metrics, Stage, TrainingState, load_state, save_state

_BATCH_NORM_ERROR = "more than 1 value per channel"  # part of torch's message for a batch that is too small


class DivergedError(UserError):
    """A loss, gradient or weight is not finite; raised on all ranks in the same step."""


@dataclass(frozen=True)
class TrainingOutcome:
    """Metrics of the last evaluation, and the duration of all steps in seconds."""

    metrics: Metrics
    seconds: float


def fit(fabric: Fabric, run: RunWriter, recipe: Recipe, stage: Stage, seed: int) -> TrainingOutcome:
    """Train ``stage`` for ``recipe.steps`` steps, from the run's saved state if it has one.

    On SIGINT or SIGTERM a single process completes its step and saves the state before it ends. An evaluation that was
    interrupted is done first when the run is resumed.

    Raises:
        UserError: a loss, gradient or weight is not finite, a batch is too small for batch norm, or the saved state is
            damaged or belongs to another stage.
        KeyboardInterrupt: a signal requested the end.
    """
    state = load_state(fabric, run, stage, recipe.steps)
    is_evaluated = state.measured == state.step
    run_on_rank_zero(lambda: run.truncate_metrics(state.step, is_evaluated), fabric.global_rank, fabric.world_size)
    if state.step == 0:
        for warning in schedule_warnings(recipe):
            key = "train" if stage.name == "stage3" else stage.name
            run.log(f"note: {key} has {warning}")
    batches = stage.batches(state.step)
    with TrainingLogger(run, recipe.steps, state.step, fabric.device) as logger, _stop_signal(fabric) as stop_requested:
        if 0 < state.step != state.measured:  # perhaps interrupted before or in its evaluation
            _checkpoint_and_evaluate(fabric, run, recipe, stage, state, logger, stop_requested)
        for step in range(state.step, recipe.steps):
            batch = next(batches)
            logger.mark_batch_loaded()
            rate = learning_rate(recipe, step)
            set_learning_rate((trainable.optimizer for trainable in stage.modules.values()), rate)
            _seed_step(seed, step)
            losses = _train_step(stage, batch, step + 1, recipe)
            state.step = step + 1
            state.seconds += logger.log_step(step + 1, losses, rate)
            _checkpoint_and_evaluate(fabric, run, recipe, stage, state, logger, stop_requested)
    return TrainingOutcome(state.metrics, state.seconds)


def _seed_step(seed: int, step: int) -> None:
    """Make every random number of a step a function of seed and step, the same on all ranks.

    A resumed run then needs no saved generator states, and two runs that differ in one module draw the same numbers.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 65_536 % 2**63)


def _train_step(stage: Stage, batch: TrainBatch, number: int, recipe: Recipe) -> dict[str, float]:
    """Losses of step ``number``, counted from 1; errors name the step and the images of its batch."""
    try:
        losses = stage.step(batch)
        return _read_losses(losses, stage.modules)
    except FloatingPointError as error:
        ids = ", ".join(map(str, batch.image_ids))
        hint = "lower the learning rate" + (" or set clip_norm" if recipe.clip_norm is None else "")
        raise DivergedError(f"{error} at step {number} (images {ids}): {hint}") from None
    except ValueError as error:
        if _BATCH_NORM_ERROR not in str(error):
            raise
        hint = "train with more images per device, or with larger ones"
        raise UserError(f"step {number}: batch norm got a single value per channel; {hint}") from None


def _read_losses(losses: Mapping[str, Tensor], modules: Mapping[str, TrainableModule]) -> dict[str, float]:
    """Means of the losses over all ranks, once the weights are known to be finite.

    Both are read from the device together.

    Raises:
        FloatingPointError: one is not finite; names it, on all ranks.
    """
    norms = {name: trainable.weight_norm() for name, trainable in modules.items()}
    try:
        values = mean_losses({**losses, **norms})
    except FloatingPointError:
        mean_losses(losses)
        names = (f"{name}.{trainable.diverged_weight()}" for name, trainable in modules.items())
        name = next((name for name in names if not name.endswith(".")), "the weights")
        raise FloatingPointError(f"the norm of {name} is not finite") from None
    return {name: values[name] for name in losses}


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

    def stop_if_requested() -> None:
        if stop_requested.is_set():
            save_state(fabric, run, stage, state)
            run.log(f"stopped after step {state.step}, which is saved")
            raise KeyboardInterrupt

    def progress(done: int, total: int) -> None:
        logger.log_evaluation(done, total)
        stop_if_requested()

    is_last = state.step == recipe.steps
    is_saved = is_last or state.step % recipe.checkpoint_every == 0
    stop_if_requested()
    if is_saved:
        save_state(fabric, run, stage, state)
    if is_last or state.step % recipe.eval_every == 0:
        _evaluate(fabric, run, stage, state, logger, progress)
        if is_saved:
            save_state(fabric, run, stage, state)
    stop_if_requested()


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
    state.metrics, state.measured = metrics, state.step
    run.log_metrics(state.step, metrics)
    values = {name: "-" if value is None else f"{value:.4g}" for name, value in metrics.items() if name.count("/") == 1}
    run.log(f"step {state.step}: " + "  ".join(f"{name} {value}" for name, value in values.items()))
    score = stage.score(metrics)
    if score >= state.best:
        state.best = score
        best = run.folder / BEST
        run_on_rank_zero(lambda: stage.export(best, state.step, metrics), fabric.global_rank, fabric.world_size)


@contextmanager
def _stop_signal(fabric: Fabric) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second signal has its usual effect.

    Never set with several processes, which would have to agree on the step at which they stop.
    """
    stop_requested = threading.Event()
    if fabric.world_size > 1 or threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore_handlers() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def request_stop(number: int, frame: object) -> None:
        stop_requested.set()
        restore_handlers()

    for number in handlers:
        signal.signal(number, request_stop)
    try:
        yield stop_requested
    finally:
        restore_handlers()
