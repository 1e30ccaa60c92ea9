"""Layout of a dataset on disk, and the annotations and images of one of its splits, as every format has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from afictl.data.annotations import pack_annotations
from afictl.data.dataset import Dataset
from afictl.data.formats.coco_records import Contents, record_columns, write_coco
from afictl.garbage_collection import paused_garbage_collection

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
"""Names that folders and files use for each split."""


@dataclass(frozen=True)
class SplitFiles(ABC):
    """Annotations and images of one split."""

    annotation_file: Path
    """File, or folder of label files, that messages and records name; each split has its own."""
    image_dir: Path
    """Folder that the ``file_name`` of an image is relative to."""

    @abstractmethod
    def read_records(self) -> Contents:
        """Read all records in COCO's form, with unknown keys where the format has them.

        Raises:
            UserError: the first fault that prevents reading.
        """

    def write_records(self, path: Path) -> None:
        """Write the records as a COCO annotation file.

        Raises:
            UserError: see ``read_records``.
        """
        write_coco(path, self.read_records())

    def load(self) -> Dataset:
        """Load the split.

        Raises:
            UserError: the first fault.
        """
        with paused_garbage_collection():
            contents = self.read_records()
            ids = [record["id"] for record in contents["annotations"]]
            return Dataset(self.annotation_file, self.image_dir, *pack_annotations(record_columns(contents, ids)))


class Layout(ABC):
    """A dataset on disk, whose format was recognised."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the format for messages."""

    @property
    @abstractmethod
    def splits(self) -> list[str]:
        """The splits that are present, in the order train, val, test."""

    @property
    def complete_splits(self) -> list[str]:
        """Those of ``splits`` whose images are present, too."""
        return self.splits

    @property
    def note(self) -> str:
        """A peculiarity of how it is read; empty without one."""
        return ""

    @abstractmethod
    def find(self, split: str) -> SplitFiles:
        """The files of a split.

        Raises:
            UserError: it is absent, incomplete or ambiguous.
        """
