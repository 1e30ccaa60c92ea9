"""What a comparison found: runs, their means and differences, and the price of each interpolator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Price:
    """What a detector costs for one image, and its interpolator in it."""

    image_hw: tuple[int, int]
    """Height and width in pixels of the image as the detector is given it."""
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
    """Most memory that is held at once beyond the weights and the input: of the whole detector, of the interpolator's
    most expensive call."""


@dataclass(frozen=True)
class Cell:
    """One finished run of the grid."""

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
    """Whether chance is ruled out as the verdict says it."""


@dataclass(frozen=True)
class Method:
    """One interpolator of a comparison."""

    name: str
    source: str
    """The kind, pre-training run or file that it comes from."""
    cells: tuple[Cell, ...]
    """In the order of their seeds; none where only prices were asked for."""
    price: Price | None
    mean: Mapping[str, float | None] = field(default_factory=dict)
    deviation: Mapping[str, float | None] = field(default_factory=dict)
    """Sample standard deviation over seeds by metric; None with fewer than two."""
    difference: Mapping[str, Difference] = field(default_factory=dict)
    """To the baseline by metric; empty for the baseline itself."""
    verdict: str = ""
    """One sentence; empty for the baseline."""


@dataclass(frozen=True)
class Comparison:
    """All methods under the same conditions."""

    preset: str
    annotation_file: Path
    """Of the held-out images."""
    image_dir: Path
    baseline: str
    conditions: Mapping[str, str]
    """What was the same for all, in words, such as ``{"schedule": "800 steps of 4 images"}``."""
    methods: tuple[Method, ...]
    """The baseline first."""
    price_basis: Mapping[str, Any] = field(default_factory=dict)
    """What the prices of trained detectors depend on, as plain values; where it is the same they need not be measured
    again."""

    @property
    def rests_on_two(self) -> bool:
        """Whether an interval comes from two seeds only, whose differences may be close to each other by luck."""
        return any(
            found.seeds == 2 and found.low is not None
            for method in self.methods
            for found in method.difference.values()
        )

    @property
    def judged(self) -> int:
        """How many methods have a difference with an interval; of several, chance could favour one."""
        return sum(any(found.low is not None for found in method.difference.values()) for method in self.methods)
