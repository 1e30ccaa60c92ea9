"""What a command derives from the run it is given: its folder, its name, its data set."""

import re
from pathlib import Path

from afictl.errors import UserError
from afictl.run_folder import INTERPOLATOR, is_run, recorded_data

_FILES = (".safetensors", ".pt", ".pth", ".json")


def folder_of(source: Path) -> Path:
    """A run folder itself, or the folder that a file is in.

    Raises:
        UserError: there is neither.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    return source if source.is_dir() else source.parent


def data_of(source: Path) -> Path:
    """The data set that the run, or the run of the file, was trained on.

    Raises:
        UserError: nothing is there, or it records no data set.
    """
    return recorded_data(folder_of(source))


def name_of(source: str | Path) -> str:
    """What new folders call a run, a file in one, a file of its own, or a kind of interpolator.

    A file in a run is called as the run: every run has a ``best.safetensors``.
    """
    path = Path(source)
    if not path.exists():
        return slugify(str(source))
    path = path.resolve()
    if path.is_dir():
        return slugify(path.name)
    if path.name == INTERPOLATOR or is_run(path.parent):
        return slugify(path.parent.name)
    return slugify(path.stem if path.suffix in _FILES else path.name)


def slugify(name: str) -> str:
    """``name`` with only letters, digits and ``._-``, so that it is one folder on every system."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
