"""Inputs of a run, recorded when it begins: the names of its classes in label order, and fingerprints of its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from afictl.data import Dataset
from afictl.data.fingerprint import content_fingerprint
from afictl.data.hashing import file_digest
from afictl.data.image_listing import image_sizes_fingerprint, latest_file
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError
from afictl.run_folder import CONFIG, LAST, has_records
from afictl.run_records import read_config
from afictl.tensor_files import read_tensors
from afictl.training.splits import Splits

TRAINING_SPLITS = ("train", "val")
"""Names of the annotations of both splits."""
_INPUTS_OF_SETTING = {
    "data": ("train", "val"),
    "weights": ("weights",),
    "backbone_weights": ("backbone_weights",),
    "interpolator": ("interpolator",),
    "guide": ("guide",),
    "pseudo.file": ("pseudo",),
}
"""Settings that are paths, and the names of their inputs."""


class InputFile(NamedTuple):
    """An input of a run: its name in ``config.yaml``, its file or folder, and the fingerprint of its content."""

    name: str
    path: Path
    fingerprint: str


@dataclass(frozen=True)
class RecordedInputs:
    """Inputs that a run or a comparison has recorded; empty in records of earlier versions."""

    source: Path
    """File with the record."""
    classes: tuple[str, ...]
    """Class names in label order, perhaps with placeholders."""
    fingerprints: Mapping[str, str]
    """By name of the input."""
    preset: Mapping[str, object] = field(default_factory=dict)
    """Preset of a run, with the kind and the options of its interpolator."""

    @property
    def note(self) -> str:
        """A log line about a record of an earlier version; empty for today's."""
        if self.fingerprints:
            return ""
        return f"note: {self.source} is of an earlier version, so that changed annotations and weights are not noticed"

    def require_unchanged(
        self, files: Iterable[InputFile], advice: str = "restore it, or start anew with another --output"
    ) -> None:
        """Check present inputs, as ``find_change``.

        Raises:
            UserError: the content of a file or folder has changed; ends with ``advice``.
        """
        if change := self.find_change(files):
            raise UserError(f"{change}; {advice}")

    def find_change(self, files: Iterable[InputFile]) -> str:
        """The first file or folder whose content has changed, as part of a message; empty without one.

        An input that was not recorded, or is absent now, is not compared.
        """
        for file in files:
            if self.fingerprints.get(file.name, file.fingerprint) != file.fingerprint:
                latest = f"; its latest file is {name}" if (name := latest_file(file.path)) else ""
                return f"{file.path}: its content has changed since {self.source} was written{latest}"
        return ""


def recorded_inputs(fabric: Fabric, folder: Path) -> RecordedInputs | None:
    """Inputs of the run in ``folder``; None if there is none, or one without a record of a step.

    The class order of a run of an earlier version is that of its latest weights.

    Raises:
        UserError: on all ranks: ``config.yaml`` or the latest weights cannot be read.
    """

    return run_on_rank_zero(lambda: read_recorded_inputs(folder), fabric.global_rank, fabric.world_size)


def read_recorded_inputs(folder: Path) -> RecordedInputs | None:
    """``recorded_inputs`` on one rank."""
    file = folder / CONFIG
    if not file.is_file() or not has_records(folder):
        return None
    config = read_config(file)
    classes = tuple(config.classes or _classes_of_weights(folder / LAST))
    return RecordedInputs(file, classes, config.contents, config.preset)


def _classes_of_weights(file: Path) -> Sequence[str]:
    classes = read_tensors(file)[1].get("classes") if file.is_file() else None
    is_valid = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return classes if is_valid else ()  # type: ignore[return-value]


def annotation_inputs(splits: Splits) -> list[InputFile]:
    """Annotation files of both splits as loaded."""
    return [annotation_input(name, dataset) for name, dataset in zip(TRAINING_SPLITS, splits, strict=True)]


def annotation_input(name: str, dataset: Dataset) -> InputFile:
    """Annotation file of a dataset."""
    return InputFile(name, dataset.annotation_file, content_fingerprint(dataset))


def image_inputs(fabric: Fabric, splits: Splits, pseudo: Dataset | None = None) -> list[InputFile]:
    """``list_image_inputs``, the same on all ranks, which must call this."""
    return run_on_rank_zero(lambda: list_image_inputs(splits, pseudo), fabric.global_rank, fabric.world_size)


def list_image_inputs(splits: Splits, pseudo: Dataset | None = None) -> list[InputFile]:
    """Image folders of both splits and of pseudo-labelled images, but those in which an image is absent."""
    datasets = [*zip(TRAINING_SPLITS, splits, strict=True), *([("pseudo", pseudo)] if pseudo else [])]
    inputs = [image_input(name, dataset) for name, dataset in datasets]
    return [item for item in inputs if item.fingerprint]


def image_input(name: str, dataset: Dataset) -> InputFile:
    """Image folder of the dataset ``train``, ``val`` or ``pseudo``; without a fingerprint if an image is absent."""
    images = None if name == "val" else dataset.training_images()
    return InputFile(images_name(name), dataset.image_dir, image_sizes_fingerprint(dataset, images))


def images_name(name: str) -> str:
    """Name of the images of the annotations ``name``."""
    return f"{name}_images"


def require_unchanged_meanwhile(before: Iterable[InputFile], after: Sequence[InputFile]) -> None:
    """Check files that were read between two computations of their fingerprints.

    Raises:
        UserError: one has changed, or is absent now.
    """
    for file in before:
        if file not in after:
            raise UserError(f"{file.path}: has changed while it was read; give the command again")


def weights_input(name: str, file: Path) -> list[InputFile]:
    """A file of weights; empty if it is absent, as a run with a saved state does not need it."""
    return [InputFile(name, file, file_digest(file))] if file.is_file() else []


def inputs_record(classes: Sequence[str], files: Iterable[InputFile]) -> dict[str, object]:
    """Keys of ``config.yaml``."""
    return {"classes": list(classes), "contents": {file.name: file.fingerprint for file in files}}


def is_moved(setting: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether ``setting`` is a path whose files have the same fingerprints in both records."""
    names = _INPUTS_OF_SETTING.get(setting, ())
    return bool(names) and all(name in old and old[name] == new.get(name) for name in names)
