"""Folder, name and dataset of a run named on the command line."""

import re
from pathlib import Path

from afictl.errors import UserError
from afictl.run_folder import INTERPOLATOR, is_run

_SUFFIXES = (".safetensors", ".pt", ".pth", ".json")


def folder_of(source: Path) -> Path:
    """``source`` itself if it is a folder, otherwise the folder of the file.

    Raises:
        UserError: ``source`` does not exist.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    return source if source.is_dir() else source.parent


def data_of(source: Path) -> Path:
    """Dataset that a run was trained on; ``source`` is its folder or a file in it.

    Raises:
        UserError: ``source`` does not exist, or the run records no dataset.
    """
    from afictl.run_records import recorded_data

    return recorded_data(folder_of(source))


def data_of_detector(source: Path) -> Path:
    """``data_of`` for a detector; that ``source`` is none is of more help than that its dataset is unknown.

    Raises:
        UserError: as ``data_of``, or ``source`` is no detector.
    """
    try:
        return data_of(source)
    except UserError:
        from afictl.weights import detector_classes

        detector_classes(source)
        raise


def name_of(source: str | Path) -> str:
    """Name for a run, a file in a run, any other file, or a kind of interpolator, usable as a folder name.

    A file in a run has the name of the run, because every run has a ``best.safetensors``.
    """
    path = Path(source)
    if not path.exists():
        return slugify(str(source))
    path = path.resolve()
    if path.is_dir():
        return slugify(path.name)
    if path.name == INTERPOLATOR or is_run(path.parent):
        return slugify(path.parent.name)
    return slugify(path.stem if path.suffix in _SUFFIXES else path.name)


def slugify(name: str) -> str:
    """``name`` reduced to letters, digits and ``._-``: a valid folder name on every system."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
