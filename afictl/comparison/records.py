"""Schemas of the files that a comparison writes, and the one reader of each file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from afictl.run_folder import COMPARISON_SETTINGS, RESULT, STATE
from afictl.run_records import Count, Number, Record, read_record


class ExperimentRecord(Record):
    """``compare.json``: the common settings of all runs of a comparison."""

    preset: dict[str, Any]
    data: str
    weights: str
    backbone_weights: str
    precision: str
    averaged: bool | None = None
    """Choice of averaged or trained weights; None for that of the library that wrote the file."""
    tune: dict[str, list[Any]] = Field(default_factory=dict)
    """Values of a preset key, of which one is chosen for each method."""
    classes: list[str] = Field(default_factory=list)
    """Class names in label order; empty in comparisons of earlier versions, like ``contents``."""
    contents: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of the input files by absolute path, and of images by name."""


class RunResult(Record):
    """``result.json``: metrics of a finished run of a comparison."""

    interpolator: str
    seed: int
    metrics: dict[str, Number | None]
    per_class: list[dict[str, Number | int | str | None]]
    seconds: Number | None
    ids: str = ""
    """Fingerprint of the ids in ``predictions.json``; empty in results of earlier versions."""


class CostRecord(Record):
    """``price`` of a method in ``comparison.json``; the fields of ``Cost``."""

    image_hw: Annotated[list[Count], Field(min_length=2, max_length=2)]
    parameters: Count
    interpolator_parameters: Count
    multiply_adds: Count
    interpolator_multiply_adds: Count
    milliseconds: Number
    interpolator_milliseconds: Number
    peak_bytes: Count
    interpolator_peak_bytes: Count
    scatter: Number = 0.0
    """0 in comparisons of earlier versions."""


class MethodRecord(Record):
    """A method in ``comparison.json``."""

    name: str
    price: CostRecord | None


class CostBasisRecord(Record):
    """``price_basis`` of ``comparison.json``: all inputs of the measurement of costs."""

    detectors: dict[str, str]


class ComparisonRecord(Record):
    """``comparison.json``, as far as a later comparison reads it."""

    methods: list[MethodRecord]
    price_basis: CostBasisRecord


_EXPERIMENT = TypeAdapter(ExperimentRecord)
_RESULT = TypeAdapter(RunResult)
_COMPARISON = TypeAdapter(ComparisonRecord)


def read_experiment(output: Path) -> ExperimentRecord:
    """Read ``compare.json`` of a comparison.

    Raises:
        UserError: it cannot be read, or has no settings of a comparison.
    """
    file = output / COMPARISON_SETTINGS
    return read_record(_EXPERIMENT, file, "choose another --output")


def read_result(folder: Path) -> RunResult:
    """Read ``result.json`` of a finished run of a comparison.

    Raises:
        UserError: it cannot be read, or is no result.
    """
    has_state = (folder / STATE).is_file()  # a finished run has none, but for one that was killed when it ended
    return read_record(_RESULT, folder / RESULT, f"remove it to {'evaluate' if has_state else 'train'} this run again")


def read_comparison(file: Path) -> ComparisonRecord:
    """Read ``comparison.json`` of a comparison.

    Raises:
        UserError: it cannot be read, or is no comparison.
    """
    return read_record(_COMPARISON, file, "remove it to measure the costs again")
