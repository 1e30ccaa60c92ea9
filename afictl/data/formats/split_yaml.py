"""Dataset of a YAML file that names the COCO annotation file and the image folder of each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from afictl.data.folders import SPLITS
from afictl.data.formats.coco_layout import CocoFiles
from afictl.data.formats.split_files import Layout
from afictl.data.formats.yolo import path_inside
from afictl.errors import UserError, did_you_mean

_KEYS = ("annotations", "images")


@dataclass(frozen=True)
class YamlLayout(Layout):
    """``train: {annotations: FILE, images: FOLDER}`` and likewise for the other splits, relative to the YAML file."""

    file: Path
    entries: Mapping[str, Mapping[str, str]]

    @property
    def name(self) -> str:
        """See ``Layout``."""
        return f"files named by {self.file.name}"

    @property
    def splits(self) -> list[str]:
        """See ``Layout``."""
        return [split for split in SPLITS if split in self.entries]

    def find(self, split: str) -> CocoFiles:
        """See ``Layout``."""
        if split not in self.entries:
            raise UserError(f"{self.file}: key '{split}' is missing; it has {', '.join(self.splits)}")
        paths = {
            key: path_inside(self.file.parent, text, f"{self.file}: {split}.{key}")
            for key, text in self.entries[split].items()
        }
        if not paths["annotations"].is_file():
            raise UserError(f"{self.file}: {split}.annotations: no file {paths['annotations']}")
        if not paths["images"].is_dir():
            raise UserError(f"{self.file}: {split}.images: no folder {paths['images']}")
        return CocoFiles(paths["annotations"], paths["images"])


def names_files(contents: object) -> bool:
    """Whether the contents of a YAML file name files of a split."""
    return isinstance(contents, dict) and any(
        isinstance(contents.get(split), dict) and "annotations" in contents[split] for split in SPLITS
    )


def split_yaml_layout(file: Path, contents: Mapping[str, object]) -> YamlLayout:
    """The dataset of a YAML file.

    Raises:
        UserError: an unknown or missing key, or a value that is no text.
    """
    entries: dict[str, Mapping[str, str]] = {}
    for split, paths in contents.items():
        if split not in SPLITS:
            raise UserError(f"{file}: key '{split}' does not exist{did_you_mean(split, SPLITS)}")
        if not isinstance(paths, dict):
            raise UserError(f"{file}: {split}: give 'annotations' and 'images'")
        for key in (*paths, *_KEYS):
            if key not in _KEYS:
                raise UserError(f"{file}: key '{split}.{key}' does not exist{did_you_mean(key, _KEYS)}")
            if not isinstance(paths.get(key), str) or not paths[key]:
                raise UserError(f"{file}: key '{split}.{key}' must be a path")
        entries[split] = paths
    return YamlLayout(file, entries)
