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
from afictl.training.run_inputs import (
    TRAINING_SPLITS,
    RecordedInputs,
    annotation_input,
    image_input,
    images_name,
)
from afictl.weights.checkpoint import find_checkpoint

_ALL_METHODS = "*"
_DATASET_OF_IMAGES = {images_name(split): split for split in TRAINING_SPLITS}


class _Input(NamedTuple):
    """An input of the runs of one method, or of all: a file, or an image folder."""

    method: str
    source: str | Path
    """Path or source from the command line."""
    name: str
    """As in ``config.yaml`` of a run."""
    file: Path

    @property
    def key(self) -> str:
        """In ``contents`` of ``compare.json``: an absolute path, or the name of images, whose folder may be a link."""
        return self.name if self.name in _DATASET_OF_IMAGES else absolute_path(self.file)

    def compute_fingerprint(self, datasets: Mapping[str, Dataset]) -> str:
        """Of annotations their content, of images their sizes, of other files their bytes; empty if it is unreadable.

        Args:
            datasets: the readable splits by name.
        """
        if self.name in TRAINING_SPLITS:
            return content_fingerprint(datasets[self.name]) if self.name in datasets else ""
        if name := _DATASET_OF_IMAGES.get(self.name):
            return image_input(name, datasets[name]).fingerprint if name in datasets else ""
        return file_digest(self.file) if self.file.is_file() else ""


def compute_fingerprints(settings: ExperimentSettings) -> dict[str, str]:
    """Compute the fingerprint of each readable input, by absolute path, or by name for images."""
    datasets = {}
    for split in TRAINING_SPLITS:
        with suppress(UserError):  # invalid annotations are reported by the runs that read them
            datasets[split] = load_dataset(settings.data, split)
    fingerprints = {item.key: item.compute_fingerprint(datasets) for item in _inputs(settings)}
    return {key: fingerprint for key, fingerprint in fingerprints.items() if fingerprint}


def fingerprints_of_run(settings: ExperimentSettings, method: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """Those of ``recorded``, from ``compute_fingerprints``, of the inputs of the runs of ``method``, by their names."""
    keys = {item.name: item.key for item in _inputs(settings) if item.method in (_ALL_METHODS, method)}
    return {name: recorded[key] for name, key in keys.items() if key in recorded}


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
        old: earlier fingerprints; inputs without one are not compared.
        new: present fingerprints.
    """
    changed = {key for key, fingerprint in new.items() if not _is_unchanged(key, old.get(key, ""), fingerprint)}
    for item in _inputs(settings):
        for folder in _started_runs(settings.output, item.method) if item.key in changed else ():
            advice = (
                "restore it, or choose another --output"
                if item.method == _ALL_METHODS
                else f"give the new one another name, NAME={item.source}, or remove {folder.parent}"
            )
            return f"{item.file}: its content has changed since {folder} was trained; {advice}"
    return ""


def _is_unchanged(key: str, old: str, new: str) -> bool:
    """Whether two fingerprints are equal; earlier versions recorded the digest of an annotation file."""
    if new.startswith(PREFIX) and old and not old.startswith(PREFIX):
        return old == file_digest(Path(key))
    return old in ("", new)


def _inputs(settings: ExperimentSettings) -> Iterator[_Input]:
    """Annotations, images, initial weights and interpolators of the experiment."""
    for split in TRAINING_SPLITS:
        with suppress(UserError):
            files = find_split(settings.data, split)
            yield _Input(_ALL_METHODS, settings.data, split, files.annotation_file)
            yield _Input(_ALL_METHODS, settings.data, images_name(split), files.image_dir)
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
