"""Roboflow's COCO export: ``_annotations.coco.json`` beside the images in ``train``, ``valid`` and ``test``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from afictl.control_characters import escape_control_characters
from afictl.data.folders import SPLITS
from afictl.data.formats.coco_layout import CocoFiles
from afictl.data.formats.split_files import SPLIT_NAMES, Layout
from afictl.errors import UserError
from afictl.json_files import read_json_text

_FILE = "_annotations.coco.json"


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str = ""
    supercategory: object = None


class _Object(msgspec.Struct, gc=False):
    category_id: object = None


class _File(msgspec.Struct):
    categories: list[_Category] = []
    annotations: list[_Object] = []


@dataclass(frozen=True)
class RoboflowLayout(Layout):
    """The folders of an export.

    Exports begin their categories with one of the name of the whole set, of which the others are subcategories. Where
    no object of any split has it, it is left out.
    """

    folder: Path

    @property
    def name(self) -> str:
        """See ``Layout``."""
        return "Roboflow COCO export"

    @cached_property
    def splits(self) -> list[str]:
        """See ``Layout``."""
        return [split for split in SPLITS if self._files(split)]

    @property
    def note(self) -> str:
        """See ``Layout``."""
        parent = self._parent_category
        if parent is None:
            return ""
        name = escape_control_characters(parent.name)
        return f"its parent category '{name}' (id {parent.id}) has no object and is left out"

    def find(self, split: str) -> CocoFiles:
        """See ``Layout``."""
        files = self._files(split)
        if len(files) != 1:
            listing = " and ".join(f"{file.parent.name}/{_FILE}" for file in files or self._all_files())
            problem = "two" if files else "no"
            raise UserError(f"{self.folder}: Roboflow COCO export with {problem} {split} folder: it has {listing}")
        parent = self._parent_category
        return CocoFiles(files[0], files[0].parent, frozenset({parent.id} if parent else ()))

    def _files(self, split: str) -> list[Path]:
        files = [self.folder / name / _FILE for name in SPLIT_NAMES[split]]
        return [file for file in files if file.is_file()]

    def _all_files(self) -> list[Path]:
        return [file for split in self.splits for file in self._files(split)]

    @cached_property
    def _parent_category(self) -> _Category | None:
        files = [_read_categories(file) for file in self._all_files()]
        used = {record.category_id for file in files for record in file.annotations}
        for category in files[0].categories if files else ():
            siblings = [other for other in files[0].categories if other.id != category.id]
            is_parent = category.supercategory == "none" and siblings
            if is_parent and category.id not in used and all(o.supercategory == category.name for o in siblings):
                return category
        return None


def recognise_roboflow(folder: Path) -> RoboflowLayout | None:
    """The layout if a folder of any split has the annotation file of an export."""
    layout = RoboflowLayout(folder)
    return layout if layout.splits else None


def _read_categories(file: Path) -> _File:
    """Categories, and the category of each object; empty for a file that its own reader refuses."""
    try:
        return msgspec.json.decode(read_json_text(file), type=_File)
    except (UserError, ValueError, msgspec.MsgspecError, RecursionError):
        return _File()
