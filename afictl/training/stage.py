"""A stage of a training, and the state from which its run is resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

from lightning_fabric import Fabric
from pydantic import Field, TypeAdapter
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from afictl.data import TrainBatch
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, one_line
from afictl.progress import ProgressCallback
from afictl.run_folder import LAST
from afictl.run_records import MAX_VALUE, Count, Number, validate
from afictl.training.optimization import TrainableModule
from afictl.training.run_writer import RunWriter
from afictl.weights.saved_state import read_saved_state

Metrics: TypeAlias = Mapping[str, float | None]
"""Values of an evaluation by name; None where the ground truth has no object."""


TRIAL_IMAGES = 2
"""Of each process in the evaluation before the training."""


@dataclass(frozen=True)
class Stage:
    """Functions and modules with which the training loop trains a stage."""

    name: str
    modules: Mapping[str, TrainableModule]
    """By their names in the saved state."""
    step: Callable[[TrainBatch], Mapping[str, Tensor]]
    """Updates the modules by one batch; returns the losses, scalars."""
    batches: Callable[[int], Iterator[TrainBatch]]
    """Endless batches of this rank, from a given step on."""
    evaluate: Callable[[ProgressCallback], Metrics]
    """Metrics on held-out images, the same on every rank."""
    score: Callable[[Metrics], float]
    """The number that is largest for the best weights."""
    export: Callable[[Path, Mapping[str, object]], None]
    """Writes the weights to a file with a description, see ``describe_weights``."""
    logged: tuple[str, ...] = ("box/", "mask/")
    """Beginnings of the names of metrics in the log line of an evaluation."""
    average: AveragedModel | None = None
    """Average of the weights, which ``step`` updates and ``evaluate`` and ``export`` use; None for none."""
    patience: int | None = None
    """Evaluations in a row without a higher score after which the training ends early; None: never."""
    try_evaluation: Callable[[], None] = lambda: None
    """Evaluates a few images without a result, so that a fault of the evaluation is found before the training."""


@dataclass
class TrainingState:
    """Progress of a training, stored with modules, optimizers and gradient scaler in ``state.pt``.

    Together they determine every further step: learning rate, batch and random numbers are functions of its number.
    """

    step: Count = 0
    """Completed steps."""
    seconds: Number = 0.0
    """Duration of all steps, without evaluations."""
    best: Annotated[float, Field(strict=True, le=MAX_VALUE)] = -math.inf
    """Highest score so far."""
    metrics: dict[str, Number | None] = field(default_factory=dict)
    """Metrics of the latest evaluation."""
    measured: Count = 0
    """Step of the latest evaluation."""
    evaluations_since_best: Count = 0
    """Latest evaluations in a row without a higher score."""


def ends_early(stage: Stage, state: TrainingState) -> bool:
    """Whether the patience of a stage is exhausted."""
    return stage.patience is not None and state.evaluations_since_best >= stage.patience


def describe_weights(step: int, metrics: Metrics, is_ended: bool = False) -> dict[str, object]:
    """Description of the weights after ``step``, for ``DetectorDescription``.

    Args:
        step: number of completed steps.
        metrics: of these weights; empty without an evaluation.
        is_ended: whether the training has ended early with them.
    """
    return {"step": step, "metrics": dict(metrics), **({"ended_early": True} if is_ended else {})}


_STATE = TypeAdapter(TrainingState)
_SCALER = TypeAdapter(dict[str, Number])
_AVERAGE = "average"
_ADVICE = "restore the file, or remove it to start at step 0"


def load_state(fabric: Fabric, run: RunWriter, stage: Stage, steps: int) -> TrainingState:
    """Load the saved state of a run into the stage's modules and optimizers, if there is one.

    Args:
        fabric: the launched Fabric.
        run: the run.
        stage: what is trained.
        steps: number of all steps of the training.

    Raises:
        UserError: the file is damaged or belongs to another stage.
    """
    if not run.state_file.is_file():
        return TrainingState()
    file = run.state_file
    content = read_saved_state(file)
    if (name := content.get("stage")) != stage.name:
        reason = f"belongs to {name:.40}, not to" if isinstance(name, str) else "does not say that it belongs to"
        raise UserError(f"{file}: {reason} {stage.name}; {_ADVICE}")
    values = {key.name: content[key.name] for key in fields(TrainingState) if key.name in content}
    state = validate(_STATE, values, str(file), _ADVICE)
    if not state.measured <= state.step <= steps:
        raise UserError(f"{file}: 'step' is {state.step}, but the run has {steps}; {_ADVICE}")
    scaler = validate(_SCALER, content.get("scaler", {}), f"{file}: 'scaler'", _ADVICE)
    try:
        for name, trainable in stage.modules.items():
            trainable.load_state(content.get(name), content.get(f"{name}_optimizer"))
        if stage.average is not None:
            stage.average.load_state_dict(cast(Mapping[str, Any], content[_AVERAGE]))
        fabric.strategy.precision.load_state_dict(scaler)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{file}: is not the state of this run ({one_line(error):.200}); {_ADVICE}") from None
    run.saved_step = state.step
    run.log(f"resumed at step {state.step}")
    return state


def save_state(fabric: Fabric, run: RunWriter, stage: Stage, state: TrainingState) -> None:
    """Write ``state.pt`` and the latest weights; every rank has to call this."""
    run_on_rank_zero(lambda: write_state(fabric, run, stage, state), fabric.global_rank, fabric.world_size)
    run.saved_step = state.step


def write_state(fabric: Fabric, run: RunWriter, stage: Stage, state: TrainingState) -> None:
    """``save_state`` of rank 0, without the other ranks."""
    scaler = fabric.strategy.precision.state_dict()
    content: dict[str, object] = {"version": 1, "stage": stage.name, "scaler": scaler, **asdict(state)}
    for name, trainable in stage.modules.items():
        content |= {name: trainable.module.state_dict(), f"{name}_optimizer": trainable.optimizer.state_dict()}
    if stage.average is not None:
        content[_AVERAGE] = stage.average.state_dict()
    run.save_state(content)
    metrics = state.metrics if state.measured == state.step else {}
    stage.export(run.folder / LAST, describe_weights(state.step, metrics, ends_early(stage, state)))
