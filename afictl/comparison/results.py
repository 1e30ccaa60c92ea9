"""Results of a comparison: runs, means and differences of each method, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """Of all calls of the interpolator in one pass, reassembly and sampling included."""
    milliseconds: float
    interpolator_milliseconds: float
    """Medians of a forward pass in eval mode."""
    peak_bytes: int
    interpolator_peak_bytes: int
    """Peak memory beyond weights and input: of the whole detector, and of the interpolator's most expensive call."""


@dataclass(frozen=True)
class ComparisonRun:
    """One finished training of a comparison: one method with one seed."""

    seed: int
    folder: Path
    """The run folder, with ``metrics.jsonl``, ``config.yaml`` and the COCO results ``predictions.json``."""
    metrics: Mapping[str, float | None]
    """``box/AP``, ``box/AP50``, ... as ``Evaluation.metrics``; points of 100."""
    per_class: Sequence[Mapping[str, Any]]
    """As ``Evaluation.per_class``."""
    training_seconds: float | None


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of a method minus the baseline of the same seed, in points of 100."""

    mean: float
    low: float | None
    high: float | None
    """95 % interval of the mean; None with fewer than two seeds."""
    seeds: int
    claimed: bool
    """Whether the test of significance rejects chance."""


@dataclass(frozen=True)
class MethodResult:
    """Runs, cost and statistics of one method; the statistics are those of ``summarize_methods``."""

    name: str
    source: str
    """The kind, pre-training run or file of its interpolator."""
    runs: tuple[ComparisonRun, ...]
    """Ordered by seed; empty where only costs were measured."""
    cost: Cost | None
    mean: Mapping[str, float | None] = field(default_factory=dict)
    """Mean over seeds by metric."""
    deviation: Mapping[str, float | None] = field(default_factory=dict)
    """Sample standard deviation over seeds by metric; None with fewer than two."""
    difference: Mapping[str, Difference] = field(default_factory=dict)
    """To the baseline by metric; empty for the baseline itself."""
    verdict: str = ""
    """One sentence; empty for the baseline."""


@dataclass(frozen=True)
class Comparison:
    """All methods under the same settings."""

    preset: str
    annotation_file: Path
    """Of the held-out images."""
    image_dir: Path
    baseline: str
    settings: Mapping[str, str]
    """Settings that all methods share, as text, such as ``{"schedule": "800 steps of 4 images"}``."""
    methods: tuple[MethodResult, ...]
    """The baseline first."""
    cost_basis: Mapping[str, object] = field(default_factory=dict)
    """Everything that the costs of trained detectors depend on, as JSON values; equal values allow their reuse."""

    @property
    def kinds(self) -> list[str]:
        """``box`` and ``mask``, where any method has a metric of it."""
        measured = {key for method in self.methods for key, value in method.mean.items() if value is not None}
        return [kind for kind in KINDS if any(key.startswith(f"{kind}/") for key in measured)]

    @property
    def has_two_seed_interval(self) -> bool:
        """Whether an interval is computed from two seeds only."""
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
