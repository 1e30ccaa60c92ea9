"""The training loop: every stage is this loop with another step."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from afictl.data import TrainBatch
from afictl.errors import UserError
from afictl.presets import Recipe
from afictl.training.hardware import seed_step
from afictl.training.run import BEST, LAST, Run
from afictl.training.schedule import learning_rate, set_learning_rate

Metrics = Mapping[str, "float | None"]


@dataclass(frozen=True)
class Stage:
    """What one stage hands to the loop.

    ``step`` performs one optimisation step and returns its losses as scalars; ``batches(k)`` gives the endless batches
    from step k on; ``evaluate`` returns metrics, of which ``judge`` picks the one that decides what is best
    (larger is better); ``export`` writes weights with the metrics that belong to them.
    """

    name: str
    modules: Mapping[str, torch.nn.Module]
    optimizers: Mapping[str, Optimizer]
    step: Callable[[TrainBatch], Mapping[str, Tensor]]
    batches: Callable[[int], Iterator[TrainBatch]]
    evaluate: Callable[[], Metrics]
    judge: Callable[[Metrics], float]
    export: Callable[[Path, int, Metrics], None]


@dataclass(frozen=True)
class Outcome:
    """What a finished training has to say: the last metrics, and the seconds spent in steps."""

    metrics: dict[str, float | None]
    seconds: float


def fit(fabric: Fabric, run: Run, recipe: Recipe, stage: Stage, seed: int) -> Outcome:
    """Train ``stage`` for ``recipe.steps`` steps.

    A run that has a saved state continues behind it. Everything that decides the next step is in that state: modules,
    optimisers and the step, of which rate, batch and random draws are functions.

    Raises:
        UserError: a loss is not finite, or the saved state belongs to another stage.
    """
    state: dict[str, Any] = {"version": 1, "stage": stage.name, "step": 0, "seconds": 0.0}
    state.update({"best": -math.inf, "metrics": {}})
    state.update({**stage.modules, **{f"{name}_optimizer": o for name, o in stage.optimizers.items()}})
    if run.state_file.is_file():
        _restore(fabric, run, state)
    batches = stage.batches(state["step"])
    clock = _Clock(fabric, run, recipe.steps, state["step"])
    for step in range(state["step"], recipe.steps):
        began = time.perf_counter()
        batch = next(batches)
        clock.loaded()
        set_learning_rate(stage.optimizers.values(), learning_rate(recipe, step))
        seed_step(seed, step, fabric.global_rank)
        losses = _to_floats(stage.step(batch), step, batch.image_ids)
        state["step"] = step + 1
        state["seconds"] += time.perf_counter() - began
        clock.stepped(step + 1, losses, learning_rate(recipe, step))
        if _due(step + 1, recipe.eval_every, recipe.steps):
            _evaluate(fabric, run, stage, state)
            clock.restart()
        if _due(step + 1, recipe.checkpoint_every, recipe.steps):
            _save(fabric, run, stage, state)
    clock.close()
    return Outcome(dict(state["metrics"]), state["seconds"])


def _due(done: int, every: int, steps: int) -> bool:
    return done % every == 0 or done == steps


def _restore(fabric: Fabric, run: Run, state: dict[str, Any]) -> None:
    expected = state["stage"]
    try:
        fabric.load(str(run.state_file), state, weights_only=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{run.state_file}: cannot be resumed: {str(error).splitlines()[0]}") from None
    if state["stage"] != expected:
        raise UserError(f"{run.state_file}: belongs to {state['stage']}, not to {expected}")
    run.forget_after(state["step"])
    run.say(f"resumed at step {state['step']}")


def _save(fabric: Fabric, run: Run, stage: Stage, state: dict[str, Any]) -> None:
    fabric.save(str(run.state_file), state)
    if fabric.is_global_zero:
        stage.export(run.folder / LAST, state["step"], state["metrics"])
    fabric.barrier()


def _evaluate(fabric: Fabric, run: Run, stage: Stage, state: dict[str, Any]) -> None:
    """Measure, and keep the weights when they are the best so far."""
    metrics = dict(fabric.broadcast(stage.evaluate() if fabric.is_global_zero else {}))
    state["metrics"] = metrics
    run.record(state["step"], metrics)
    run.say(f"step {state['step']}: " + "  ".join(f"{k} {_show(v)}" for k, v in metrics.items()))
    score = stage.judge(metrics)
    if score > state["best"]:
        state["best"] = score
        if fabric.is_global_zero:
            stage.export(run.folder / BEST, state["step"], metrics)
    fabric.barrier()


def _to_floats(losses: Mapping[str, Tensor], step: int, image_ids: list[int]) -> dict[str, float]:
    """Losses as numbers, with one transfer from the device."""
    values = torch.stack([value.detach().float().reshape(()) for value in losses.values()]).tolist()
    for name, value in zip(losses, values, strict=True):
        if not math.isfinite(value):
            ids = ", ".join(map(str, image_ids))
            raise UserError(
                f"{name} became {value} at step {step + 1} (images {ids}): lower the learning rate or set clip_norm"
            )
    return dict(zip(losses, values, strict=True))


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


class _Clock:
    """Progress: a bar on a terminal, plain lines elsewhere, with losses, times and memory."""

    def __init__(self, fabric: Fabric, run: Run, steps: int, start: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.run, self.steps, self.device = run, steps, fabric.device
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = fabric.is_global_zero and run.console.is_terminal
        self.bar = Progress(*columns, console=run.console, transient=True, disable=not shown)
        self.task = self.bar.add_task(run.folder.name, total=steps, completed=start)
        self.bar.start()
        self.every = max(1, min(20, steps // 10))
        self.restart()

    def restart(self) -> None:
        """Begin a new interval, so that an evaluation does not count as training time."""
        self.began, self.count, self.waited, self.last = time.perf_counter(), 0, 0.0, time.perf_counter()

    def loaded(self) -> None:
        """The batch of the next step has arrived."""
        self.waited += time.perf_counter() - self.last

    def stepped(self, step: int, losses: Mapping[str, float], rate: float) -> None:
        """A step is done; print and record a line when an interval is full."""
        self.last = time.perf_counter()
        self.count += 1
        self.bar.update(self.task, completed=step, description=f"{self.run.folder.name} {sum(losses.values()):.3f}")
        if step % self.every == 0 or step == self.steps:
            seconds = (self.last - self.began) / self.count
            values = {
                **losses,
                "lr": rate,
                "seconds_per_step": seconds,
                "data_seconds": self.waited / self.count,
            }
            self.run.record(step, {**values, "memory_gib": _memory_gib(self.device)})
            terms = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
            left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self.steps - step)))
            self.run.say(
                f"step {step}/{self.steps}  {terms}  lr {rate:.2g}  {seconds:.3f} s/step"
                f" (data {self.waited / self.count:.3f})  {_memory_gib(self.device):.2f} GiB  eta {left}"
            )
            self.restart()

    def close(self) -> None:
        """Take the bar away and flush the events."""
        self.bar.stop()
        self.run.close()


def _memory_gib(device: torch.device) -> float:
    """Peak memory so far: allocated on a CUDA device, resident in the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
