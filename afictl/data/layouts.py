"""Datasets on disk in any of the supported formats, which are recognised by their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from afictl.data.dataset import Dataset
from afictl.data.folders import SPLITS, require_data_folder
from afictl.data.formats.coco_layout import CocoLayout, recognise_coco
from afictl.data.formats.roboflow import recognise_roboflow
from afictl.data.formats.split_files import Layout, SplitFiles
from afictl.data.formats.split_yaml import names_files, split_yaml_layout
from afictl.data.formats.voc import recognise_voc
from afictl.data.formats.yolo import is_yolo, yolo_layout
from afictl.errors import UserError, first_names
from afictl.yaml_files import read_yaml

_YAML_SUFFIXES = (".yaml", ".yml")
_MAX_YAML_FILES = 20


def load_dataset(source: str | Path, split: str) -> Dataset:
    """Load one split of a dataset of any supported format.

    Args:
        source: folder of the dataset, or a YAML file of YOLO or of file names.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        UserError: no dataset of one recognised format, or a fault in it; names file, key and id.
    """
    return find_split(Path(source), split).load()


def find_split(source: Path, split: str) -> SplitFiles:
    """The files of a split of a dataset.

    Raises:
        UserError: unknown split, or see ``find_layout`` and ``Layout.find``.
    """
    if split not in SPLITS:
        raise UserError(f"split '{split}' does not exist; splits are {', '.join(SPLITS)}")
    return find_layout(source).find(split)


def find_layout(source: Path) -> Layout:
    """Recognise the format of a dataset.

    A folder of no format is one in COCO's layout without files: its ``find`` says what is missing.

    Raises:
        UserError: no such folder or YAML file, or a folder of several formats.
    """
    if source.is_file() and source.suffix.lower() in _YAML_SUFFIXES:
        layout = _yaml_layout(source)
        if layout is None:
            raise UserError(
                f"{source}: describes no dataset: YOLO's has 'names' and 'train', one of annotation files "
                "'train: {annotations: FILE, images: FOLDER}'"
            )
        return layout
    require_data_folder(source)
    files = _yaml_files(source)
    candidates: list[Layout | None] = [recognise_coco(source), recognise_roboflow(source), recognise_voc(source)]
    candidates += [_yaml_layout(file, skip_faults=True) for file in files]
    layouts = [layout for layout in candidates if layout]
    if len(layouts) > 1:
        raise UserError(
            f"{source}: ambiguous, as it can be read as {' and as '.join(layout.name for layout in layouts)}; name the "
            "YAML file itself, or move the files of the others away"
        )
    if not layouts:  # a damaged YAML file may be the one that describes the dataset
        layouts = [layout for file in files if file.stem == "data" and (layout := _yaml_layout(file))]
    return layouts[0] if layouts else CocoLayout(source)


def describe_data(source: Path, counts: Mapping[str, int]) -> str:
    """One line on the recognised format and the number of images of the splits that are used."""
    layout = find_layout(source)
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"data: {layout.name}: {images} images{f'; {layout.note}' if layout.note else ''}"


def _yaml_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _YAML_SUFFIXES and file.is_file())
    if len(files) > _MAX_YAML_FILES:
        raise UserError(f"{folder}: {len(files)} YAML files, such as {first_names([f.name for f in files])}; name one")
    return files


def _yaml_layout(file: Path, *, skip_faults: bool = False) -> Layout | None:
    """The dataset that a YAML file describes; None for another file, and with ``skip_faults`` for one with a fault."""
    try:
        contents = read_yaml(file)
    except UserError:
        if skip_faults:
            return None
        raise
    if isinstance(contents, dict) and names_files(contents):
        return split_yaml_layout(file, contents)
    if isinstance(contents, dict) and is_yolo(contents):
        return yolo_layout(file, contents)
    return None
