"""Types of the numbers in a preset: what is text or a boolean is no number, and every number has a range.

The bounds lie far beyond the numbers of real recipes; beyond them is a slip of the pen, on which a training would spend
days, or end in a crash of the process.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

MIN_DEVIATION = 1e-3
"""A quarter of the smallest deviation of released detectors, 1/255."""


def _require_number(value: object) -> object:
    """Refuse what pydantic converts to a number: ``yes`` to 1 and ``'1'`` to 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_boolean", "needs a number; yes, on and true are none")
    if isinstance(value, str):
        raise PydanticCustomError("number_text", "needs a number, not text")
    return value


def _require_unit_pixels(values: tuple[float, ...], lowest: float) -> tuple[float, ...]:
    if not all(lowest <= value <= 1 for value in values):
        raise PydanticCustomError(
            "pixels", f"needs numbers in {lowest:g}..1, as pixels are in 0..1; divide mean and std of 0..255 by 255"
        )
    return values


def _require_means(values: tuple[float, ...]) -> tuple[float, ...]:
    return _require_unit_pixels(values, 0)


def _require_deviations(values: tuple[float, ...]) -> tuple[float, ...]:
    return _require_unit_pixels(values, MIN_DEVIATION)


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
LongSide: TypeAlias = Annotated[Integer, Field(ge=8, le=1_000_000)]
"""Maximum of a side, which may stand for no limit."""
Pixels: TypeAlias = Annotated[Real, Field(gt=0, le=1e6)]
"""Size of objects or distance in an image."""
Ratio: TypeAlias = Annotated[Real, Field(ge=1e-3, le=1e3)]
Regions: TypeAlias = Annotated[Integer, Field(gt=0, le=1_000_000)]
"""Number of anchors, proposals, regions or detections of an image."""

Steps: TypeAlias = Annotated[Integer, Field(gt=0, le=10**9)]
StepsOrNone: TypeAlias = Annotated[Integer, Field(ge=0, le=10**9)]
Interval: TypeAlias = Annotated[Integer, Field(gt=0, le=10**12)]
"""Steps between two events, which may stand for never."""
BatchSize: TypeAlias = Annotated[Integer, Field(gt=0, le=65_536)]
LearningRate: TypeAlias = Annotated[Real, Field(gt=0, le=100)]
WeightDecay: TypeAlias = Annotated[Real, Field(ge=0, le=10)]
LossWeight: TypeAlias = Annotated[Real, Field(ge=0, le=1000)]
GradientNorm: TypeAlias = Annotated[Real, Field(gt=0, le=1e6)]
Workers: TypeAlias = Annotated[Integer, Field(ge=0, le=1024)]

ConvWidth: TypeAlias = Annotated[Integer, Field(gt=0, le=8192)]
LinearWidth: TypeAlias = Annotated[Integer, Field(gt=0, le=65_536)]
Repeats: TypeAlias = Annotated[Integer, Field(gt=0, le=100)]
