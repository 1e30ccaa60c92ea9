"""What the files hold that a grid starts from: one that is trained again in place keeps its path, not its content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from afictl.comparison.specification import Grid
from afictl.data.digest import file_digest
from afictl.errors import UserError
from afictl.interpolators import interpolator_kinds
from afictl.training.hardware import resolved
from afictl.training.run import CONFIG
from afictl.training.start import interpolator_file
from afictl.weights.checkpoint import find_checkpoint


def digests(grid: Grid) -> dict[str, str]:
    """The digest of each file that the grid starts from, by the path that names it; of those that are there."""
    found = {}
    for path, file in _files(grid):
        if file.is_file():
            found[resolved(path)] = file_digest(file)
    return found


def what_changed(grid: Grid, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Why cells that are trained and those to come would start from other things; empty where they do not.

    A path of which ``before`` knows nothing is not judged.
    """
    for path in (path for path, digest in now.items() if before.get(path, digest) != digest):
        names = [each.name for each in grid.contenders if resolved(each.source) == path]
        for cell in _begun(grid.output, names or ["*"]):
            advice = (
                f"give the new one another name, NAME={path}, or remove {cell.parent}"
                if names
                else "choose another --output"
            )
            return f"{path}: its content is not that which {cell} was trained from; {advice}"
    return ""


def _files(grid: Grid) -> Iterator[tuple[str | Path, Path]]:
    """Each source and the file that is read of it."""
    for weights in (grid.weights, grid.backbone_weights):
        if weights:
            with suppress(UserError):
                yield weights, find_checkpoint(weights)
    for each in grid.contenders:
        if each.source not in interpolator_kinds():
            with suppress(UserError):  # gone since its cells were trained, which do not need it any more
                yield each.source, interpolator_file(each.source)


def _begun(output: Path, names: Iterable[str]) -> list[Path]:
    """The cells of these interpolators that are trained, or on the way."""
    return sorted(file.parent for name in names for file in output.glob(f"{name}/seed*/{CONFIG}"))
