"""Number of seeds of each method by the width of intervals: seeds are added until the differences are known precisely.

The rule looks at widths alone, never at the sign or size of a difference, but stops the earlier the smaller the
observed deviation is by chance. Intervals of nominally 95 % therefore cover less; ``docs/comparison.md`` has figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lightning_fabric import Fabric

from afictl.comparison.analysis.statistics import half_width
from afictl.comparison.experiment.comparison_run import is_finished, read_finished_run
from afictl.comparison.experiment.execution import TrainRuns, train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings, Method
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError

_METRIC = "box/AP"
"""The one that every detector has."""


@dataclass(frozen=True)
class WidthRule:
    """Seeds are added to a method until the interval of its difference to the baseline is narrow."""

    baseline: str
    half_width: float
    """Largest half-width of the 95 % interval of the paired difference of box AP, in points."""
    initial_seeds: int
    """Seeds of each method to begin with, the first ones of the experiment."""
    max_seeds: int


@dataclass(frozen=True)
class RequiredSeeds:
    """Seeds of a method that the finished runs ask for."""

    count: int
    half_width: float | None
    """Of the interval over the finished seeds; None for the baseline and with fewer finished seeds than the first."""


def require_usable(rule: WidthRule, methods: Sequence[Method]) -> None:
    """Check a rule before anything is trained.

    Raises:
        UserError: a single method, fewer than two seeds to begin with, or more than the largest number.
    """
    if len(methods) < 2:
        raise UserError(f"--until {rule.half_width:g}: {rule.baseline} is the only method, so there is no difference")
    if rule.initial_seeds < 2:
        raise UserError(f"--seeds {rule.initial_seeds}: --until begins with 2 seeds or more; one has no interval")
    if rule.max_seeds < rule.initial_seeds:
        raise UserError(f"--max-seeds {rule.max_seeds}: is less than the {rule.initial_seeds} seeds to begin with")


def required_seeds(settings: ExperimentSettings, rule: WidthRule) -> dict[str, RequiredSeeds]:
    """Seeds of each method: up to the first number at which its interval is narrow, or one more than are finished.

    A number depends on the finished runs of the first seeds alone, neither on their order in time nor on other methods.
    The baseline gets the seeds of all others, as differences are paired. An unfinished or failed run ends the seeds of
    its method, and one of the baseline those of all.
    """
    values = {method.name: _finished_values(settings, method) for method in settings.methods}
    references = values.pop(rule.baseline)
    required = {}
    for name, numbers in values.items():
        differences = [value - reference for value, reference in zip(numbers, references, strict=False)]
        required[name] = _required_count(differences, rule)
    count = max(item.count for item in required.values())
    return {rule.baseline: RequiredSeeds(count, None), **required}


def train_until_narrow(
    fabric: Fabric, settings: ExperimentSettings, rule: WidthRule, train_runs: TrainRuns | None = None
) -> tuple[ExperimentSettings, dict[str, str]]:
    """Train the seeds of ``required_seeds`` until they are finished or have failed.

    An interrupted experiment is continued to the runs of an uninterrupted one. A failed run is not replaced by one of
    another seed; the next call tries it again.

    Args:
        fabric: as for ``train_experiment``.
        settings: the experiment, with as many seeds as the rule allows.
        rule: rule that ``require_usable`` accepts.
        train_runs: as for ``train_experiment``.

    Returns:
        The experiment with the number of seeds of each method, and the failures: error by run.

    Raises:
        UserError: as ``train_experiment``, also for inputs that change while it trains.
    """
    failures: dict[str, str] = {}
    while True:
        count = partial(required_seeds, settings, rule)
        required = run_on_rank_zero(count, fabric.global_rank, fabric.world_size)
        seed_counts = {name: item.count for name, item in required.items()}
        if seed_counts == settings.seed_counts:  # of which all runs are finished or have failed
            return settings, failures
        settings = replace(settings, seed_counts=seed_counts)
        fabric.print(f"seeds of each method: {_describe(required)}")
        failures |= train_experiment(fabric, settings, train_runs, excluded=failures)


def describe_rule(settings: ExperimentSettings, rule: WidthRule) -> str:
    """The rule and the methods that have not reached it, as text."""
    required = required_seeds(settings, rule)
    wide = {
        name: item
        for name, item in required.items()
        if name != rule.baseline and (item.half_width is None or item.half_width > rule.half_width)
    }
    text = (
        f"added to {rule.initial_seeds}, up to {rule.max_seeds}, until the half-width of the interval of box AP is at"
        f" most {rule.half_width:g}, which makes the interval cover less than 95 %"
    )
    return text + (f"; not reached by {_describe(wide)}" if wide else "")


def _describe(required: Mapping[str, RequiredSeeds]) -> str:
    return ", ".join(
        f"{name} {item.count}" + ("" if item.half_width is None else f" (half-width {item.half_width:.2f})")
        for name, item in required.items()
    )


def _finished_values(settings: ExperimentSettings, method: Method) -> list[float]:
    """AP of the first seeds of a method, up to the first that has none."""
    values: list[float] = []
    for seed in settings.seeds:
        folder = settings.run_folder(method, seed)
        value = read_finished_run(folder).metrics.get(_METRIC) if is_finished(folder) else None
        if value is None:
            break
        values.append(value)
    return values


def _required_count(differences: Sequence[float], rule: WidthRule) -> RequiredSeeds:
    """Required seeds for differences of consecutive seeds."""
    half = None
    for count in range(rule.initial_seeds, rule.max_seeds + 1):
        if count > len(differences):
            return RequiredSeeds(count, half)
        half = half_width(differences[:count])
        if half <= rule.half_width:
            return RequiredSeeds(count, half)
    return RequiredSeeds(rule.max_seeds, half)
