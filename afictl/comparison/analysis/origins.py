"""Origin of the interpolator of a method: fresh weights, or those of a file."""

from __future__ import annotations

from pathlib import Path

from afictl.comparison.experiment.specification import Method
from afictl.comparison.results import ComparisonRun, Cost, MethodResult
from afictl.interpolators import INTERPOLATORS
from afictl.run_folder import is_run

FRESH = "fresh"
NO_WEIGHTS = "no weights"


def method_result(method: Method, folder: Path, cost: Cost, runs: tuple[ComparisonRun, ...] = ()) -> MethodResult:
    """The result of a method of an experiment, whose comparison is in ``folder``."""
    kind, source = method.kind, method.source
    origin = describe_origin(kind or "", None if kind else source, None, folder)
    return MethodResult(method.name, kind or source, runs, cost, origin=origin)


def describe_origin(kind: str, trained: str | Path | None, start_weights: str | Path | None, folder: Path) -> str:
    """The origin of an interpolator before the training of its method: ``fresh``, ``trained: FILE`` or ``no weights``.

    Args:
        kind: of the interpolator.
        trained: run or file that ``--interpolator`` named; empty or None for a kind.
        start_weights: detector that holds the interpolator, where ``--interpolator`` named none; empty or None without.
        folder: of the comparison.
    """
    if trained:
        return f"trained: {path_in(trained, folder)}"
    if kind in INTERPOLATORS and not INTERPOLATORS[kind].learned:
        return NO_WEIGHTS
    return f"as in the start weights {path_in(start_weights, folder)}" if start_weights else FRESH


def path_in(path: str | Path, folder: Path) -> str:
    """A name of ``path`` without the folders of this machine: relative to ``folder``, with its run, or alone."""
    path, folder = Path(path).resolve(), folder.resolve()
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    parent = path.parent
    in_run = is_run(parent) or any((parent / stage).is_dir() for stage in ("stage1", "stage2"))
    return f"{parent.name}/{path.name}" if in_run else path.name
