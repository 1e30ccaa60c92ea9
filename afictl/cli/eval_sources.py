"""What ``afictl eval`` is given to score: names for the tables, and the folder of each one's results."""

from __future__ import annotations

import zipfile
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from afictl.cli.runs import folder_of, name_of, slugify
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.data import Dataset


def require_sources(weights: list[Path] | None, predictions: list[Path] | None) -> list[Path]:
    """The detectors or the files of predictions, all of which are there: a misspelt second one is told before hours go
    into the first.

    Raises:
        UserError: both kinds or none are given, or one is not there, or is a folder without a detector.
    """
    from afictl.weights.checkpoint import find_checkpoint

    if bool(weights) == bool(predictions):
        raise UserError("pass either --weights RUN or --predictions FILE")
    for source in weights or predictions or ():
        folder_of(source)
    for source in weights or ():
        find_checkpoint(source)
    for source in predictions or ():
        if source.is_dir():
            raise UserError(f"--predictions {source}: is a folder; name the JSON file in it")
        if zipfile.is_zipfile(source):
            raise UserError(f"--predictions {source}: is a zip file; unpack it and name the JSON file in it")
    return weights or predictions or []


def require_classes(weights: list[Path], index: Dataset) -> None:
    """Hold the classes of several detectors against the data set's before hours go into the first of them.

    Raises:
        UserError: one has others, or is no detector.
    """
    from afictl.evaluation.category_matching import match_categories
    from afictl.weights import detector_classes

    for source in weights:
        classes = detector_classes(source)
        match_categories(classes, index, owner=str(source))


def named_sources(sources: list[Path]) -> dict[str, Path]:
    """The sources by their names; where two have the same name, by the ends of their paths, which tell them apart.

    Raises:
        UserError: one is given twice.
    """
    names = [name_of(source) for source in sources]
    paths = [source.absolute() for source in sources]
    alike = [path for name, path in zip(names, paths, strict=True) if names.count(name) > 1]
    shared = commonpath(alike) if alike else ""
    above = Path(shared).parent if Path(shared) in alike else Path(shared)
    named = {
        str(path.relative_to(above)) if path in alike else name: source
        for name, path, source in zip(names, paths, sources, strict=True)
    }
    if len(named) < len(sources):
        raise UserError("the same source is given twice")
    return named


def part_of_data(split: str, limit: int | None, tta: bool) -> str:
    """What the names of folders say of an evaluation that is not the usual one; empty for that."""
    part = (f"-{split}" if split != "val" or limit else "") + (f"-first{limit}" if limit else "")
    return part + ("-tta" if tta else "")


def result_folders(named: dict[str, Path], output: Path | None, part: str) -> dict[str, Path]:
    """Where the results of each go; with ``output`` and several, into folders of their names inside it.

    Raises:
        UserError: two would write to the same folder.
    """
    if output is None:
        folders, advice = {called: _folder(source, part) for called, source in named.items()}, "give --output DIR"
    elif len(named) == 1:
        return dict.fromkeys(named, output)
    else:  # ../run and run are of one name
        folders, advice = {called: output / slugify(called) for called in named}, "rename one, or give whole paths"
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise UserError(f"several of the sources would write to the same folder: {advice}")
    return folders


def _folder(source: Path, part: str) -> Path:
    """``eval`` in the run, or beside it for a part of the images; scored predictions stay where they are."""
    run = folder_of(source)
    if source.suffix == ".json" and (not part or run.name == f"eval{part}"):
        return run
    return run / f"eval{part}"
