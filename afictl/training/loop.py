"""The training loop: every stage is this loop with another step."""

from __future__ import annotations

import math
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from afictl.data import TrainBatch
from afictl.distributed import all_reduce_mean, run_on_rank_zero
from afictl.errors import UserError, one_line
from afictl.presets import Recipe
from afictl.progress import ProgressCallback
from afictl.run_folder import BEST, LAST
from afictl.training.logger import TrainingLogger
from afictl.training.optimization import TrainableModule, learning_rate, schedule_warnings, set_learning_rate
from afictl.training.run_writer import RunWriter

Metrics = Mapping[str, "float | None"]
_ONE_VALUE = "more than 1 value per channel"  # how torch's batch norm says that a batch is too small


class DivergedError(UserError):
    """A loss or gradient is not finite any more; all processes of a run meet it in the same step."""


@dataclass(frozen=True)
class Stage:
    """What one stage hands to the loop.

    ``step`` performs one optimisation step and returns its losses as scalars; ``batches(k)`` gives the endless
    batches from step k on; ``evaluate`` returns metrics, the same on every rank, of which ``score`` makes the one
    number that decides what is best (larger is better); ``export`` writes weights with the metrics that belong to
    them, if they were measured.
    """

    name: str
    modules: Mapping[str, TrainableModule]
    step: Callable[[TrainBatch], Mapping[str, Tensor]]
    batches: Callable[[int], Iterator[TrainBatch]]
    evaluate: Callable[[ProgressCallback], Metrics]
    score: Callable[[Metrics], float]
    export: Callable[[Path, int, Metrics], None]


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished training has to say: the last metrics, and the seconds spent in steps."""

    metrics: dict[str, float | None]
    seconds: float


def fit(fabric: Fabric, run: RunWriter, recipe: Recipe, stage: Stage, seed: int) -> TrainingOutcome:
    """Train ``stage`` for ``recipe.steps`` steps.

    A run that has a saved state continues behind it. Everything that decides the next step is in that state: modules,
    optimisers, the scaler of 16-bit gradients and the step, of which rate, batch and random draws are functions.
    On Ctrl-C or SIGTERM a single process finishes its step and saves the state before it leaves; an evaluation that
    was cut short is done first when the run continues.

    Raises:
        UserError: a loss or gradient is not finite, a batch is too small for batch norm, or the saved state is damaged
            or belongs to another stage.
        KeyboardInterrupt: a signal asked for the end.
    """
    state: dict[str, Any] = {"version": 1, "stage": stage.name, "step": 0, "seconds": 0.0, "scaler": {}}
    state.update({"best": -math.inf, "metrics": {}, "measured": 0})
    for name, trainable in stage.modules.items():
        state.update({name: trainable.module, f"{name}_optimizer": trainable.optimizer})
    if run.state_file.is_file():
        _restore(fabric, run, state)
    run.truncate_metrics(state["step"])
    for line in schedule_warnings(recipe) if state["step"] == 0 else ():
        run.log(f"note: {stage.name} has {line}")
    batches = stage.batches(state["step"])
    with TrainingLogger(run, recipe.steps, state["step"], fabric.device) as logger, _leave_on_signal(fabric) as leaving:
        if 0 < state["step"] != state["measured"]:  # perhaps stopped before or in its evaluation
            _checkpoint_and_evaluate(fabric, run, recipe, stage, state, logger, leaving)
        for step in range(state["step"], recipe.steps):
            batch = next(batches)
            logger.mark_batch_loaded()
            set_learning_rate((m.optimizer for m in stage.modules.values()), learning_rate(recipe, step))
            _seed_step(seed, step, fabric.global_rank)
            losses = _step(fabric, recipe, stage, batch, step + 1)
            state["step"] = step + 1
            state["seconds"] += logger.log_step(step + 1, losses, learning_rate(recipe, step))
            _checkpoint_and_evaluate(fabric, run, recipe, stage, state, logger, leaving)
    return TrainingOutcome(dict(state["metrics"]), state["seconds"])


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Make every random number of a training step a function of seed, step and rank.

    So a resumed run needs no saved generator states, and two runs that differ in one module draw the same numbers.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 65_536 + rank) % 2**63)


def _step(fabric: Fabric, recipe: Recipe, stage: Stage, batch: TrainBatch, number: int) -> dict[str, float]:
    """The losses of one step, or the mistake that stopped it in the user's words."""
    try:
        return _to_floats(stage.step(batch))
    except FloatingPointError as error:
        ids = ", ".join(map(str, batch.image_ids))
        hint = "lower the learning rate" + (" or set clip_norm" if recipe.clip_norm is None else "")
        raise DivergedError(f"{error} at step {number} (images {ids}): {hint}") from None
    except ValueError as error:
        if _ONE_VALUE not in str(error):
            raise
        hint = "train with more images a device, or with larger ones"
        raise UserError(f"step {number}: batch norm got a single value a channel; {hint}") from None


def _checkpoint_and_evaluate(
    fabric: Fabric,
    run: RunWriter,
    recipe: Recipe,
    stage: Stage,
    state: dict[str, Any],
    logger: TrainingLogger,
    leaving: threading.Event,
) -> None:
    """Save and evaluate where that is due behind a step, and leave where a signal asked for it.

    The state is saved before the evaluation, which may take long, and again with what it measured.
    """
    step = state["step"]
    saving = _due(step, recipe.checkpoint_every, recipe.steps)

    def leave_if_asked() -> None:
        if leaving.is_set():
            _save(fabric, run, stage, state)
            run.log(f"stopped behind step {step}, which is saved")
            raise KeyboardInterrupt

    def progress(done: int, total: int) -> None:
        logger.log_evaluation(done, total)
        leave_if_asked()

    leave_if_asked()
    if saving:
        _save(fabric, run, stage, state)
    if _due(step, recipe.eval_every, recipe.steps):
        _evaluate(fabric, run, stage, state, logger, progress)
        if saving:
            _save(fabric, run, stage, state)
    leave_if_asked()


def _due(done: int, every: int, steps: int) -> bool:
    return done % every == 0 or done == steps


@contextmanager
def _leave_on_signal(fabric: Fabric) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one acts at once.

    Only in a lone process: several would have to agree on the step they stop at.
    """
    leaving = threading.Event()
    if fabric.world_size > 1 or threading.current_thread() is not threading.main_thread():
        yield leaving
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def leave(number: int, frame: object) -> None:
        leaving.set()
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, leave)
    try:
        yield leaving
    finally:
        restore()


def _restore(fabric: Fabric, run: RunWriter, state: dict[str, Any]) -> None:
    expected = state["stage"]
    try:
        fabric.load(str(run.state_file), state, weights_only=True)
    except (KeyError, RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = one_line(error)
        raise UserError(f"{run.state_file}: cannot be resumed: {reason:.200}") from None
    if state["stage"] != expected:
        raise UserError(f"{run.state_file}: belongs to {state['stage']}, not to {expected}")
    fabric.strategy.precision.load_state_dict(state["scaler"])
    run.log(f"resumed at step {state['step']}")


def _save(fabric: Fabric, run: RunWriter, stage: Stage, state: dict[str, Any]) -> None:
    state["scaler"] = fabric.strategy.precision.state_dict()

    def write() -> None:
        run.save_state(
            {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in state.items()}
        )
        measured = state["metrics"] if state["measured"] == state["step"] else {}
        stage.export(run.folder / LAST, state["step"], measured)

    run_on_rank_zero(write, fabric.global_rank, fabric.world_size)


def _evaluate(
    fabric: Fabric,
    run: RunWriter,
    stage: Stage,
    state: dict[str, Any],
    logger: TrainingLogger,
    progress: ProgressCallback,
) -> None:
    """Measure, and keep the weights when they are as good as the best so far."""
    metrics = dict(stage.evaluate(progress))
    logger.reset_interval()
    state.update(metrics=metrics, measured=state["step"])
    run.log_metrics(state["step"], metrics)
    shown = [f"{name} {_show(value)}" for name, value in metrics.items() if name.count("/") == 1]
    run.log(f"step {state['step']}: " + "  ".join(shown))
    score = stage.score(metrics)
    if score >= state["best"]:
        state["best"] = score
        best = run.folder / BEST
        run_on_rank_zero(lambda: stage.export(best, state["step"], metrics), fabric.global_rank, fabric.world_size)


def _to_floats(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses as numbers, the mean over all ranks, with one transfer from the device.

    Raises:
        FloatingPointError: one is not finite.
    """
    stacked = torch.stack([value.detach().float().reshape(()) for value in losses.values()])
    values = all_reduce_mean(stacked).tolist()  # so that all ranks stop together at a loss that is not finite
    for name, value in zip(losses, values, strict=True):
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became {value}")
    return dict(zip(losses, values, strict=True))


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
