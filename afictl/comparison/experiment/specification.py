"""Specification of an experiment: methods, seeds and common settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from afictl.errors import UserError, did_you_mean
from afictl.interpolators import Interpolator, interpolator_kinds, kind_of_source
from afictl.presets import Preset
from afictl.training import InitialWeights
from afictl.training.initial_weights import resolve_interpolator
from afictl.training.run_inputs import RecordedInputs

TUNING = "tuning"
"""Folder of the runs of a tuning in that of the experiment."""


@dataclass(frozen=True)
class Method:
    """One interpolator of a comparison: name in tables, and source (kind, ``kind:KIND``, pre-training run or file)."""

    name: str
    source: str

    @property
    def kind(self) -> str | None:
        """The kind of a fresh interpolator; None for a pre-training run or file."""
        return kind_of_source(self.source)


@dataclass(frozen=True)
class RunSpecification:
    """One run of an experiment: method, seed, run folder and initial weights."""

    method: str
    seed: int
    folder: Path
    initial_weights: InitialWeights
    inputs: RecordedInputs | None = field(default=None, compare=False)
    """Class order and fingerprints of the experiment; None before its settings are read."""

    def __str__(self) -> str:
        return f"{self.method} seed {self.seed}"


@dataclass(frozen=True)
class TuningGrid:
    """Values of a preset key, of which one is chosen for each method."""

    key: str
    """Such as ``train.lr``."""
    values: tuple[object, ...]

    def label(self, value: object) -> str:
        """``KEY=VALUE``."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class ExperimentSettings:
    """Settings of an experiment, in which every method is trained with every seed."""

    preset: Preset
    data: Path
    output: Path
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    weights: Path | None = None
    """Detector to start from."""
    backbone_weights: Path | None = None
    """Backbone file to load instead of the ImageNet weights of timm."""
    averaged: bool | None = None
    """As in ``InitialWeights``."""
    seed_counts: Mapping[str, int] | None = None
    """Number of ``seeds`` of each method, the first ones; None for all."""
    tuning: TuningGrid | None = None
    presets: Mapping[str, Preset] = field(default_factory=dict)
    """Presets with the chosen value of ``tuning`` by method; ``preset`` for others."""

    def preset_of(self, method: str) -> Preset:
        """The preset of the runs of a method."""
        return self.presets.get(method, self.preset)

    def initial_weights(self, method: Method) -> InitialWeights:
        """Initial weights of the runs of a method."""
        return InitialWeights(method.source, self.weights, self.backbone_weights, averaged=self.averaged)

    def run_folder(self, method: Method, seed: int) -> Path:
        """Folder of the run of a method with a seed."""
        return self.output / method.name / f"seed{seed}"

    def runs(self) -> list[RunSpecification]:
        """All runs, ordered by seed, so that an interrupted experiment has complete seeds to compare."""
        return [
            self.run(method, seed)
            for index, seed in enumerate(self.seeds)
            for method in self.methods
            if self.seed_counts is None or index < self.seed_counts[method.name]
        ]

    def run(self, method: Method, seed: int) -> RunSpecification:
        """The run of a method with a seed."""
        return RunSpecification(method.name, seed, self.run_folder(method, seed), self.initial_weights(method))


def resolve_method(preset: Preset, method: Method, averaged: bool | None = None) -> tuple[Preset, Interpolator]:
    """The preset with the interpolator of ``method``, and that interpolator; ``averaged`` as for a checkpoint.

    Raises:
        UserError: it cannot be built or loaded, or does not fit the neck; names the method.
    """
    try:
        return resolve_interpolator(preset, method.source, 0, averaged)
    except UserError as error:
        reason = str(error).removeprefix("--interpolator ").removeprefix(f"{method.source}: ")
        raise UserError(f"--interpolators {method.name}={method.source}: {reason}") from None


def parse_methods(text: str) -> list[Method]:
    """Parse ``nearest,bilinear,afi=RUN``, a list of kinds and of names with sources.

    Raises:
        UserError: an unknown kind without a source, a source that is a kind and also an existing path, an invalid name,
            or a name given twice.
    """
    methods = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, source = part.partition("=")
        kind = kind_of_source(source or part, f"--interpolators {name}=" if source else "--interpolators ")
        if not source:
            if separator or kind is None:
                nearest = did_you_mean(name, interpolator_kinds())
                raise UserError(f"--interpolators: no kind is called '{name}'{nearest}; write NAME=RUN for a run")
            name, source = kind, part
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise UserError(f"--interpolators: '{name}' cannot be a folder name; use letters, digits, - and _")
        methods.append(Method(name, source))
    if not methods:
        raise UserError("--interpolators: name at least one")
    names = [method.name for method in methods]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--interpolators: '{duplicates[0]}' is given twice; write NAME=RUN for different names")
    return methods
