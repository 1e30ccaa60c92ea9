"""Types of the numbers in a preset: what is text or a boolean is no number, and every number has a range.

The bounds lie far beyond the numbers of real recipes; beyond them is a slip of the pen, on which a training would spend
days, or end in a crash of the process. In the presets that runs have recorded, only those hold without which nothing
can be computed: earlier versions had no others.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

MIN_DEVIATION = 1e-3
"""A quarter of the smallest deviation of released detectors, 1/255."""
RECORDED = {"recorded": True}
"""Context of pydantic for a preset that a run has recorded."""
_MAX_RECORDED = 2.0**53
"""Beyond it arithmetic overflows."""


def _require_number(value: object) -> object:
    """Refuse what pydantic converts to a number: ``yes`` to 1 and ``'1'`` to 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_boolean", "needs a number; yes, on and true are none")
    if isinstance(value, str):
        raise PydanticCustomError("number_text", "needs a number, not text")
    return value


def _plausible(lowest: float | None, highest: float) -> AfterValidator:
    """Bounds of a plausible number, both included."""

    def check(value: float, info: ValidationInfo) -> float:
        low, high = (-_MAX_RECORDED, _MAX_RECORDED) if info.context == RECORDED else (lowest, highest)
        if low is not None and value < low:
            raise PydanticCustomError("low", f"must be at least {low:,}")
        if value > high:
            raise PydanticCustomError("high", f"must be at most {high:,}")
        return value

    return AfterValidator(check)


def _require_unit_pixels(values: tuple[float, ...], lowest: float, info: ValidationInfo) -> tuple[float, ...]:
    low, high = (-_MAX_RECORDED, _MAX_RECORDED) if info.context == RECORDED else (lowest, 1)
    if not all(low <= value <= high for value in values):
        raise PydanticCustomError(
            "pixels", f"needs numbers in {lowest:g}..1, as pixels are in 0..1; divide mean and std of 0..255 by 255"
        )
    return values


def _require_means(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    return _require_unit_pixels(values, 0, info)


def _require_deviations(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    return _require_unit_pixels(values, MIN_DEVIATION, info)


Integer: TypeAlias = Annotated[int, BeforeValidator(_require_number)]
Real: TypeAlias = Annotated[float, BeforeValidator(_require_number)]

Fraction: TypeAlias = Annotated[Real, Field(ge=0, le=1)]
Points: TypeAlias = Annotated[Real, Field(ge=0, le=100)]
PixelMeans: TypeAlias = Annotated[tuple[Real, Real, Real], AfterValidator(_require_means)]
PixelDeviations: TypeAlias = Annotated[
    tuple[Annotated[Real, Field(gt=0)], Annotated[Real, Field(gt=0)], Annotated[Real, Field(gt=0)]],
    AfterValidator(_require_deviations),
]

Side: TypeAlias = Annotated[Integer, Field(ge=8, le=65_535)]
"""Side of an image in pixels; the largest is that of JPEG."""
LongSide: TypeAlias = Annotated[Integer, Field(ge=8), _plausible(None, 1_000_000)]
"""Maximum of a side, which may stand for no limit."""
Pixels: TypeAlias = Annotated[Real, Field(gt=0), _plausible(None, 1e6)]
"""Size of objects or distance in an image."""
ScaleFactor: TypeAlias = Annotated[Real, Field(gt=0), _plausible(0.05, 10)]
"""Size of an image divided by its usual one."""
Ratio: TypeAlias = Annotated[Real, Field(gt=0), _plausible(1e-3, 1e3)]
Regions: TypeAlias = Annotated[Integer, Field(ge=1), _plausible(None, 1_000_000)]
"""Number of anchors, proposals, regions or detections of an image."""

Steps: TypeAlias = Annotated[Integer, Field(ge=1), _plausible(None, 10**9)]
StepsOrNone: TypeAlias = Annotated[Integer, _plausible(0, 10**9)]
Interval: TypeAlias = Annotated[Integer, Field(ge=1), _plausible(None, 10**12)]
"""Steps between two events, which may stand for never."""
BatchSize: TypeAlias = Annotated[Integer, Field(ge=1), _plausible(None, 65_536)]
MicroBatches: TypeAlias = Annotated[Integer, Field(ge=1), _plausible(None, 65_536)]
LearningRate: TypeAlias = Annotated[Real, Field(gt=0), _plausible(None, 100)]
RateFactor: TypeAlias = Annotated[Real, Field(ge=0), _plausible(None, 1000)]
WeightDecay: TypeAlias = Annotated[Real, Field(ge=0), _plausible(None, 10)]
LossWeight: TypeAlias = Annotated[Real, Field(ge=0), _plausible(None, 1000)]
GradientNorm: TypeAlias = Annotated[Real, Field(gt=0), _plausible(None, 1e6)]
Workers: TypeAlias = Annotated[Integer, Field(ge=0), _plausible(None, 1024)]

ConvWidth: TypeAlias = Annotated[Integer, Field(ge=1, le=8192)]
LinearWidth: TypeAlias = Annotated[Integer, Field(ge=1, le=65_536)]
Repeats: TypeAlias = Annotated[Integer, Field(ge=1, le=100)]
