"""Results of a comparison: runs, statistics and costs of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afictl.data import Dataset
from afictl.evaluation.metrics import KINDS


@dataclass(frozen=True)
class Cost:
    """Cost of one image for a detector, and for the interpolator in it."""

    image_hw: tuple[int, int]
    """Height and width in pixels of the image as the detector receives it."""
    parameters: int
    interpolator_parameters: int
    multiply_adds: int
    interpolator_multiply_adds: int
    """Sum over all calls of the interpolator in one pass, including reassembly and sampling."""
    milliseconds: float
    interpolator_milliseconds: float
    """Medians of a forward pass in eval mode."""
    peak_bytes: int
    interpolator_peak_bytes: int
    """Peak memory beyond weights and input, of the detector and of the interpolator's most expensive call."""
    scatter: float = 0.0
    """Interquartile range of the repeated times of one image, relative to their median; 0 where it was not measured."""


@dataclass(frozen=True)
class ComparisonRun:
    """One finished training of a comparison: one method with one seed."""

    seed: int
    folder: Path
    """The run folder, with ``metrics.jsonl``, ``config.yaml`` and the COCO results ``predictions.json``."""
    metrics: Mapping[str, float | None]
    """``Evaluation.metrics``: ``box/AP``, ``box/AP50``, ... in points of 100."""
    per_class: Sequence[Mapping[str, Any]]
    """``Evaluation.per_class``."""
    training_seconds: float | None


@dataclass(frozen=True)
class Difference:
    """Mean difference of a metric to the baseline, paired by seed, in points of 100."""

    mean: float
    low: float | None
    high: float | None
    """95 % interval of the mean; None with fewer than two seeds."""
    seeds: int
    claimed: bool
    """Whether the difference is significant."""
    deviation: float | None = None
    """Sample standard deviation of the differences; None with fewer than two seeds."""

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class TunedValue:
    """A value of a tuning with its score for one method."""

    value: Any
    ap: float | None
    """Box AP in points of 100 on the held-out part of the training images; None without one."""
    failure: str = ""
    """Why the training diverged; empty if it did not."""
    is_decided: bool = True
    """False for a training that is not finished."""


@dataclass(frozen=True)
class Tuning:
    """Choice of a setting for one method."""

    key: str
    """Such as ``train.lr``."""
    chosen: Any
    values: tuple[TunedValue, ...]


@dataclass(frozen=True)
class MethodResult:
    """Runs, cost and statistics of one method; the statistics are those of ``summarize_methods``."""

    name: str
    source: str
    """Kind, pre-training run or file of the interpolator."""
    runs: tuple[ComparisonRun, ...]
    """Ordered by seed; empty where only costs were measured."""
    cost: Cost | None
    mean: Mapping[str, float | None] = field(default_factory=dict)
    """Mean over seeds by metric."""
    deviation: Mapping[str, float | None] = field(default_factory=dict)
    """Sample standard deviation over seeds by metric; None with fewer than two."""
    difference: Mapping[str, Difference] = field(default_factory=dict)
    """Difference to the baseline by metric; empty for the baseline."""
    verdict: str = ""
    """One sentence; empty for the baseline."""
    origin: str = ""
    """Weights of the interpolator before training: ``fresh``, ``trained: FILE`` or ``no weights``."""
    tuning: Tuning | None = None
    """None where no setting was chosen for each method."""


@dataclass(frozen=True)
class Comparison:
    """All methods under the same settings."""

    preset: str
    held_out: Dataset | None
    """The held-out images; None where only costs of noise were measured."""
    baseline: str
    settings: Mapping[str, str]
    """Settings of all methods as text, such as ``{"schedule": "800 steps of 4 images"}``."""
    methods: tuple[MethodResult, ...]
    """Methods, the baseline first."""
    cost_basis: Mapping[str, object] = field(default_factory=dict)
    """All inputs of the cost measurement as JSON values; stored costs are reused if they are equal."""

    @property
    def annotation_file(self) -> Path:
        """Annotations of the held-out images."""
        return self.held_out.annotation_file if self.held_out else Path()

    @property
    def image_dir(self) -> Path:
        """Folder of the held-out images."""
        return self.held_out.image_dir if self.held_out else Path()

    @property
    def kinds(self) -> list[str]:
        """``box`` and ``mask``, if any method has a metric of that kind."""
        measured = {key for method in self.methods for key, value in method.mean.items() if value is not None}
        return [kind for kind in KINDS if any(key.startswith(f"{kind}/") for key in measured)]

    @property
    def has_two_seed_interval(self) -> bool:
        """Whether an interval is computed from only two seeds."""
        return any(
            difference.seeds == 2 and difference.low is not None
            for method in self.methods
            for difference in method.difference.values()
        )

    @property
    def num_tested(self) -> int:
        """Number of methods that have a difference with an interval."""
        return sum(
            any(difference.low is not None for difference in method.difference.values()) for method in self.methods
        )
