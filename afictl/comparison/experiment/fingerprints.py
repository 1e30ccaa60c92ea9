"""SHA-256 fingerprints of the input files of an experiment, which detect replaced files with unchanged paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.data.folders import find_files
from afictl.data.hashing import file_digest
from afictl.errors import UserError
from afictl.interpolators import kind_of_source
from afictl.run_folder import CONFIG, absolute_path
from afictl.training.initial_weights import find_interpolator_file
from afictl.weights.checkpoint import find_checkpoint


class _Input(NamedTuple):
    """An input file of the runs of one method."""

    method: str
    """Name of the method; ``*`` for all."""
    source: str | Path
    """Path or source from the command line."""
    file: Path


def compute_fingerprints(settings: ExperimentSettings) -> dict[str, str]:
    """Compute the fingerprint of each existing input file, by absolute path."""
    return {absolute_path(item.file): file_digest(item.file) for item in _inputs(settings) if item.file.is_file()}


def find_changed_input(settings: ExperimentSettings, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return an error about an input file that changed after the start of its first run; empty without one.

    Args:
        settings: the experiment.
        old: earlier fingerprints by path; files without one are not compared.
        new: present fingerprints by path.
    """
    changed = {path for path, fingerprint in new.items() if old.get(path, fingerprint) != fingerprint}
    for method, source, file in _inputs(settings):
        for folder in _started_runs(settings.output, method) if absolute_path(file) in changed else ():
            advice = (
                "choose another --output"
                if method == "*"
                else f"give the new one another name, NAME={source}, or remove {folder.parent}"
            )
            return f"{file}: its content has changed since {folder} was trained; {advice}"
    return ""


def _inputs(settings: ExperimentSettings) -> Iterator[_Input]:
    """Annotations, initial weights and interpolators of the experiment."""
    for split in ("train", "val"):
        with suppress(UserError):
            yield _Input("*", settings.data, find_files(settings.data, split)[0])
    for weights in (settings.weights, settings.backbone_weights):
        if weights:
            with suppress(UserError):
                yield _Input("*", weights, find_checkpoint(weights))
    for method in settings.methods:
        if kind_of_source(method.source) is None:
            with suppress(UserError):  # it may be removed after its runs are trained
                yield _Input(method.name, method.source, find_interpolator_file(method.source))


def _started_runs(output: Path, method: str) -> list[Path]:
    """Folders of the runs of a method that were started."""
    return sorted(file.parent for file in output.glob(f"{method}/seed*/{CONFIG}"))
