"""What the files hold that a grid is made of: one that is written again in place keeps its path, not its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.data.folders import find_files
from afictl.data.hashing import file_digest
from afictl.errors import UserError
from afictl.interpolators import interpolator_kinds
from afictl.run_folder import CONFIG, absolute_path
from afictl.training.initial_weights import find_interpolator_file
from afictl.weights.checkpoint import find_checkpoint

_EVERY = "*"
"""Stands for the interpolators of all cells."""


def compute_fingerprints(grid: ExperimentSettings) -> dict[str, str]:
    """The digest of each file that the grid is made of, by its path; of those that are there."""
    return {absolute_path(file): file_digest(file) for _, _, file in _files(grid) if file.is_file()}


def find_changed_input(grid: ExperimentSettings, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Why cells that are trained and those to come would be made of other things; empty where they would not.

    A path of which ``before`` knows nothing is not judged.
    """
    changed = {path for path, digest in now.items() if before.get(path, digest) != digest}
    for name, source, file in _files(grid):
        for cell in _begun(grid.output, name) if absolute_path(file) in changed else ():
            another = f"give the new one another name, NAME={source}, or remove {cell.parent}"
            advice = "choose another --output" if name == _EVERY else another
            return f"{file}: its content is not what it was when {cell} was trained; {advice}"
    return ""


def _files(grid: ExperimentSettings) -> Iterator[tuple[str, str | Path, Path]]:
    """The interpolator whose cells are made of it, what the user calls it, and the file that is read of that.

    Of data sets these are the annotations. A run may stand here twice, with its detector and with its interpolator.
    """
    for split in ("train", "val"):
        with suppress(UserError):
            yield _EVERY, grid.data, find_files(grid.data, split)[0]
    for weights in (grid.weights, grid.backbone_weights):
        if weights:
            with suppress(UserError):
                yield _EVERY, weights, find_checkpoint(weights)
    for each in grid.methods:
        if each.source not in interpolator_kinds():
            with suppress(UserError):  # gone since its cells were trained, which do not need it any more
                yield each.name, each.source, find_interpolator_file(each.source)


def _begun(output: Path, name: str) -> list[Path]:
    """The cells of this interpolator that are trained, or on the way."""
    return sorted(file.parent for file in output.glob(f"{name}/seed*/{CONFIG}"))
