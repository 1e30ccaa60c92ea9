"""Fingerprints of the input files of an experiment, which detect changed content under unchanged paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from afictl.comparison.experiment.specification import TUNING, ExperimentSettings
from afictl.comparison.records import read_experiment
from afictl.data import Dataset
from afictl.data.fingerprint import PREFIX, content_fingerprint
from afictl.data.hashing import file_digest
from afictl.data.layouts import find_split, load_dataset
from afictl.errors import UserError
from afictl.interpolators import kind_of_source
from afictl.run_folder import COMPARISON_SETTINGS, CONFIG, absolute_path
from afictl.training.initial_weights import find_interpolator_file
from afictl.training.run_inputs import RecordedInputs, annotation_input
from afictl.weights.checkpoint import find_checkpoint

_SPLITS = ("train", "val")
_ALL_METHODS = "*"


class _Input(NamedTuple):
    """An input file of the runs of one method, or of all."""

    method: str
    source: str | Path
    """Path or source from the command line."""
    name: str
    """As in ``config.yaml`` of a run."""
    file: Path

    @property
    def fingerprint(self) -> str:
        """Of the content of annotations, and of the bytes of other files."""
        if self.name in _SPLITS:
            return content_fingerprint(load_dataset(self.source, self.name))
        return file_digest(self.file)


def compute_fingerprints(settings: ExperimentSettings) -> dict[str, str]:
    """Compute the fingerprint of each readable input file, by absolute path."""
    fingerprints = {}
    for item in _inputs(settings):
        with suppress(UserError):  # invalid annotations are reported by the runs that read them
            if item.file.exists():
                fingerprints[absolute_path(item.file)] = item.fingerprint
    return fingerprints


def fingerprints_of_run(settings: ExperimentSettings, method: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """Those of ``recorded``, by absolute path, that are inputs of the runs of ``method``, by name of the input."""
    paths = {item.name: absolute_path(item.file) for item in _inputs(settings) if item.method in (_ALL_METHODS, method)}
    return {name: recorded[path] for name, path in paths.items() if path in recorded}


def require_recorded_content(output: Path, held_out: Dataset) -> None:
    """Check the held-out annotations against ``compare.json`` in ``output``.

    Raises:
        UserError: their content has changed since the experiment began.
    """
    item = annotation_input("val", held_out)
    recorded = read_experiment(output).contents.get(absolute_path(item.path), item.fingerprint)
    RecordedInputs(output / COMPARISON_SETTINGS, (), {"val": recorded}).require_unchanged([item])


def find_changed_input(settings: ExperimentSettings, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return an error about an input file that changed after the start of its first run; empty without one.

    Args:
        settings: the experiment.
        old: earlier fingerprints by path; files without one are not compared.
        new: present fingerprints by path.
    """
    changed = {path for path, fingerprint in new.items() if not _is_unchanged(path, old.get(path, ""), fingerprint)}
    for method, source, _, file in _inputs(settings):
        for folder in _started_runs(settings.output, method) if absolute_path(file) in changed else ():
            advice = (
                "restore it, or choose another --output"
                if method == _ALL_METHODS
                else f"give the new one another name, NAME={source}, or remove {folder.parent}"
            )
            return f"{file}: its content has changed since {folder} was trained; {advice}"
    return ""


def _is_unchanged(path: str, old: str, new: str) -> bool:
    """Whether two fingerprints are equal; earlier versions recorded the digest of an annotation file."""
    if new.startswith(PREFIX) and old and not old.startswith(PREFIX):
        return old == file_digest(Path(path))
    return old in ("", new)


def _inputs(settings: ExperimentSettings) -> Iterator[_Input]:
    """Annotations, initial weights and interpolators of the experiment."""
    for split in _SPLITS:
        with suppress(UserError):
            yield _Input(_ALL_METHODS, settings.data, split, find_split(settings.data, split).annotation_file)
    for name, weights in (("weights", settings.weights), ("backbone_weights", settings.backbone_weights)):
        if weights:
            with suppress(UserError):
                yield _Input(_ALL_METHODS, weights, name, find_checkpoint(weights))
    for method in settings.methods:
        if kind_of_source(method.source) is None:
            with suppress(UserError):  # it may be removed after its runs are trained
                yield _Input(method.name, method.source, "interpolator", find_interpolator_file(method.source))


def _started_runs(output: Path, method: str) -> list[Path]:
    """Folders of the runs of a method that were started."""
    folders = (f"{method}/seed*", f"{TUNING}/*/{method}/seed*")
    return sorted(file.parent for folder in folders for file in output.glob(f"{folder}/{CONFIG}"))
