"""What a grid is: interpolators, seeds and the conditions that all runs share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from afictl.errors import UserError
from afictl.interpolators import interpolator_kinds
from afictl.presets import Preset
from afictl.training import InitialWeights


@dataclass(frozen=True)
class Method:
    """One interpolator of a comparison: its name in tables and its source (kind, pre-training run or file)."""

    name: str
    source: str


@dataclass(frozen=True)
class RunSpecification:
    """One cell of a grid, to be trained in ``folder``."""

    name: str
    seed: int
    folder: Path
    start: InitialWeights

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


@dataclass(frozen=True)
class ExperimentSettings:
    """Every contender with every seed; all else is the same for all."""

    preset: Preset
    data: Path
    output: Path
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    weights: Path | None = None
    backbone_weights: Path | None = None

    def start(self, contender: Method) -> InitialWeights:
        """Where the weights of a contender's detectors come from."""
        return InitialWeights(contender.source, self.weights, self.backbone_weights)

    def folder(self, contender: Method, seed: int) -> Path:
        """The run folder of a cell."""
        return self.output / contender.name / f"seed{seed}"

    def jobs(self) -> list[RunSpecification]:
        """All cells, seed by seed, so that a grid which is stopped has whole seeds to compare."""
        return [
            RunSpecification(each.name, seed, self.folder(each, seed), self.start(each))
            for seed in self.seeds
            for each in self.methods
        ]


def parse_methods(text: str) -> list[Method]:
    """Read ``nearest,bilinear,afi=RUN``; a part is a kind, or a name and where its weights are.

    Raises:
        UserError: an unknown kind without a source, or a name given twice.
    """
    contenders = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, source = part.partition("=")
        if not source and name not in interpolator_kinds():
            raise UserError(
                f"--interpolators: '{name}' is no kind ({', '.join(interpolator_kinds())}); write NAME=RUN for a file"
            )
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise UserError(f"--interpolators: '{name}' cannot be a folder name; use letters, digits, - and _")
        contenders.append(Method(name, source or name))
    names = [contender.name for contender in contenders]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles or not names:
        raise UserError(
            f"--interpolators: '{doubles[0]}' is given twice; write NAME=RUN to tell them apart"
            if doubles
            else "--interpolators: name at least one"
        )
    return contenders
