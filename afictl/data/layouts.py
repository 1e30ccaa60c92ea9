"""Datasets on disk in any of the supported formats, which are recognised by their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from afictl.data.dataset import Dataset
from afictl.data.folders import SPLITS, subfolders
from afictl.data.formats.coco_layout import CocoLayout, recognise_coco
from afictl.data.formats.roboflow import recognise_roboflow
from afictl.data.formats.split_files import SPLIT_NAMES, Layout, SplitFiles
from afictl.data.formats.split_yaml import names_files, split_yaml_layout
from afictl.data.formats.voc import recognise_voc
from afictl.data.formats.yolo import is_yolo, yolo_layout
from afictl.errors import UserError, closest_names, first_names
from afictl.yaml_files import read_yaml

_YAML_SUFFIXES = (".yaml", ".yml")
_MAX_YAML_FILES = 20
_LEVELS_UP, _LEVELS_DOWN = 3, 2
"""Folders above and below a path that are searched for the dataset that was meant."""
_PARTS = {
    *("annotations", "imagesets", "jpegimages", "images", "labels"),
    *(name for names in SPLIT_NAMES.values() for name in names),
    *(f"{split}2017" for split in SPLITS),
}
"""Lower-case names of the folders of a dataset."""


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
        UserError: no such folder or YAML file, a folder of several formats, or one that is a part of a dataset or has
            datasets in it.
    """
    if source.is_file() and source.suffix.lower() in _YAML_SUFFIXES:
        layout = _yaml_layout(source)
        if layout is None:
            raise UserError(
                f"{source}: describes no dataset: YOLO's has 'names' and 'train', one of annotation files "
                "'train: {annotations: FILE, images: FOLDER}'"
            )
        return layout
    _require_folder(source)
    files = _yaml_files(source)
    layouts = _recognise(source, files)
    if len(layouts) > 1:
        raise UserError(
            f"{source}: ambiguous, as it can be read as {' and as '.join(layout.name for layout in layouts)}; name the "
            "YAML file itself, or move the files of the others away"
        )
    if not layouts:  # a damaged YAML file may be the one that describes the dataset
        layouts = [layout for file in files if file.stem == "data" and (layout := _yaml_layout(file))]
    if not layouts and (hint := _describe_nearby(source)):
        raise UserError(f"{source}: is no dataset; {hint}")
    return layouts[0] if layouts else CocoLayout(source)


def describe_data(source: Path, counts: Mapping[str, int]) -> str:
    """One line on the recognised format and the number of images of the splits that are used."""
    layout = find_layout(source)
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"data: {layout.name}: {images} images{f'; {layout.note}' if layout.note else ''}"


def _require_folder(source: Path) -> None:
    if source.is_file():
        hint = _describe_nearby(source)
        parts = "a dataset is the folder with its annotations and images, or a YAML file"
        raise UserError(f"{source}: is a file; {hint or parts}")
    if not source.is_dir():
        close = closest_names(source.name, [path.name for path in subfolders(source.parent)], 1)
        raise UserError(f"{source}: no such folder{f'; did you mean {source.with_name(close[0])}?' if close else ''}")


def _recognise(folder: Path, yaml_files: Sequence[Path]) -> list[Layout]:
    """All formats that a folder has."""
    candidates: list[Layout | None] = [recognise_coco(folder), recognise_roboflow(folder), recognise_voc(folder)]
    candidates += [_yaml_layout(file, skip_faults=True) for file in yaml_files]
    return [layout for layout in candidates if layout]


def _describe_nearby(path: Path) -> str:
    """Advice to give the dataset that a path is a part of, or one in it; empty if there is none."""
    names = Path(os.path.abspath(path)).parts
    for levels in range(1, min(_LEVELS_UP + 1, len(names))):
        folder = Path(os.path.normpath(path.joinpath(*[os.pardir] * levels)))
        if names[-levels].lower() in _PARTS and _is_dataset(folder):
            return f"give the dataset that it is a part of: {folder}"
    folders = [path]
    for _ in range(_LEVELS_DOWN):
        folders = [child for folder in folders for child in subfolders(folder)]
        if datasets := [str(folder) for folder in folders if _is_dataset(folder)]:
            choice = "the dataset" if len(datasets) == 1 else "one of the datasets"
            return f"give {choice} in it: {first_names(datasets)}"
    return ""


def _is_dataset(folder: Path) -> bool:
    with suppress(UserError, OSError):
        return bool(_recognise(folder, _yaml_files(folder)))
    return False


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
