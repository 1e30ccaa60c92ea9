"""COCO's layout: ``annotations/`` with a file of each split, and image folders named after the splits."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afictl.data.dataset import Dataset
from afictl.data.folders import SPLITS
from afictl.data.formats.coco import load_coco_file
from afictl.data.formats.coco_records import Contents, read_instances, without_categories
from afictl.data.formats.split_files import SPLIT_NAMES, Layout, SplitFiles
from afictl.data.other_layouts import describe_layout
from afictl.errors import UserError, first_names


@dataclass(frozen=True)
class CocoFiles(SplitFiles):
    """A COCO annotation file and its image folder."""

    omitted: frozenset[int] = frozenset()
    """Category ids without objects that are left out."""

    def read_records(self) -> Contents:
        """See ``SplitFiles``."""
        return without_categories(read_instances(self.annotation_file), self.omitted)

    def write_records(self, path: Path) -> None:
        """See ``SplitFiles``; a file without omissions is copied as it is."""
        if self.omitted:
            super().write_records(path)
        else:
            shutil.copyfile(self.annotation_file, path)

    def load(self) -> Dataset:
        """Load the split, from its cached index if there is one."""
        return load_coco_file(self.annotation_file, self.image_dir, omitted=self.omitted)


@dataclass(frozen=True)
class CocoLayout(Layout):
    """COCO's names with or without the year, or other files of ``annotations/`` whose names contain their split."""

    folder: Path

    @property
    def name(self) -> str:
        """See ``Layout``."""
        return "COCO"

    @property
    def splits(self) -> list[str]:
        """See ``Layout``."""
        return [split for split in SPLITS if _annotation_files(self.folder, split)]

    @property
    def complete_splits(self) -> list[str]:
        """See ``Layout``; COCO's list of test images may be there without them."""
        return [s for s in self.splits if _image_folders(self.folder, s, _annotation_files(self.folder, s)[0])]

    def find(self, split: str) -> CocoFiles:
        """See ``Layout``."""
        files = _annotation_files(self.folder, split)
        if not files:
            tried = [f"annotations/{name}" for name in _standard_names(split)]
            raise UserError(_absence(self.folder, f"{split} annotation file", tried))
        if len(files) > 1:
            names = first_names([f"annotations/{file.name}" for file in files])
            raise UserError(
                f"{self.folder}: {len(files)} annotation files name the split {split}: {names}; move the others away, "
                f"or rename the one to use to instances_{split}.json"
            )
        folders = _image_folders(self.folder, split, files[0])
        if not folders:
            raise UserError(_absence(self.folder, f"{split} image folder", _standard_folders(split, files[0])))
        if len(folders) > 1:
            names = first_names([str(path.relative_to(self.folder)) for path in folders])
            raise UserError(
                f"{self.folder}: {len(folders)} image folders name the split {split}: {names}; move the others away"
            )
        return CocoFiles(files[0], folders[0])


def recognise_coco(folder: Path) -> CocoLayout | None:
    """The layout if ``annotations/`` has a file of any split."""
    layout = CocoLayout(folder)
    return layout if layout.splits else None


def _standard_names(split: str) -> list[str]:
    """COCO's own file names of a split, in order of preference."""
    names = [f"instances_{split}2017.json", f"instances_{split}.json"]
    return names + ["image_info_test-dev2017.json", "image_info_test2017.json"] * (split == "test")


def _annotation_files(folder: Path, split: str) -> list[Path]:
    """The file of a split by COCO's names; where no split has such a name, all files that name the split."""
    parent = folder / "annotations"
    standard = {name: [parent / n for n in _standard_names(name) if (parent / n).is_file()] for name in SPLITS}
    if any(standard.values()):
        return standard[split][:1]
    return sorted(file for file in parent.glob("*.json") if file.is_file() and split_in_name(file.stem) == split)


def split_in_name(text: str) -> str | None:
    """The split that a name such as ``custom_train`` or ``instances_Valid2017`` contains; None for none or several."""
    words = {re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", text.lower())}
    splits = [split for split, names in SPLIT_NAMES.items() if words & set(names)]
    return splits[0] if len(splits) == 1 else None


def _standard_folders(split: str, annotation_file: Path) -> list[str]:
    """COCO's names of the image folder, in order of preference."""
    names = [f"{split}2017", split]
    return names if "2017" in annotation_file.name else names[::-1]


def _image_folders(folder: Path, split: str, annotation_file: Path) -> list[Path]:
    """The folder by COCO's names, else all that are named after the split, also in ``images``, else ``images``."""
    standard = [folder / name for name in _standard_folders(split, annotation_file) if (folder / name).is_dir()]
    if standard:
        return standard[:1]
    images = folder / "images"
    if folders := [path for parent in (folder, images) for path in _folders_of_split(parent, split)]:
        return folders
    has_other_splits = any(_folders_of_split(images, name) for name in SPLITS)
    return [images] if images.is_dir() and not has_other_splits else []


def _folders_of_split(parent: Path, split: str) -> list[Path]:
    if not parent.is_dir():
        return []
    names = {*SPLIT_NAMES[split], f"{split}2017"}
    return sorted(path for path in parent.iterdir() if path.name.lower() in names and path.is_dir())


def _absence(folder: Path, role: str, tried: Sequence[str]) -> str:
    layout = describe_layout(folder)
    return f"no {role}: {f'{layout}; ' if layout else ''}looked for {' and '.join(tried)} in {folder}"
