"""Image and video files that a user names: by paths, folders, patterns, or lists of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from afictl.data.folders import IMAGE_SUFFIXES, image_files
from afictl.data.image_faults import HEIC_SUFFIXES
from afictl.data.videos import VIDEO_SUFFIXES
from afictl.errors import UserError

STANDARD_INPUT = "-"
_MEDIA_SUFFIXES = (*IMAGE_SUFFIXES, *HEIC_SUFFIXES, *VIDEO_SUFFIXES)


class MediaFile(NamedTuple):
    """An image or a video."""

    path: Path
    name: str
    """Name of its results without suffix: the path in the folder that was named, or the name of the file."""

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_media(arguments: Sequence[str], lines: Iterable[str]) -> list[MediaFile]:
    """The files that the arguments name, in their order, each once; their names differ.

    A folder stands for its images and videos and those of its subfolders, sorted. A pattern with ``*``, ``?``,
    ``[...]`` or ``**`` stands for the images and videos that match it, not for folders. ``-`` stands for the paths in
    ``lines``. Any other path is taken as it is, whatever its suffix.

    Args:
        arguments: paths, folders, patterns and ``-``.
        lines: one path a line, without patterns; empty lines are skipped.

    Raises:
        UserError: a path that does not exist, a folder without images, or a pattern that matches none.
    """
    inputs: dict[str, tuple[Path, str]] = {}
    for argument in arguments:
        for path, name in _from_lines(lines) if argument == STANDARD_INPUT else _from_argument(argument):
            inputs.setdefault(os.path.abspath(path), (path, name))
    if not inputs:
        raise UserError("standard input has no path")
    names = unique_names([name for _, name in inputs.values()])
    return [MediaFile(path, name) for (path, _), name in zip(inputs.values(), names, strict=True)]


def unique_names(names: Sequence[str]) -> list[str]:
    """Append ``-2``, ``-3``, ... to repeated names."""
    unique: dict[str, None] = {}
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = f"{name}-{number}"
        unique[candidate] = None
    return list(unique)


def _from_lines(lines: Iterable[str]) -> Iterator[tuple[Path, str]]:
    for number, line in enumerate(lines, start=1):
        if text := line.rstrip("\r\n"):
            yield from _from_path(Path(text), f"standard input: line {number}: ")


def _from_argument(argument: str) -> Iterator[tuple[Path, str]]:
    if os.path.lexists(argument) or not glob.has_magic(argument):
        yield from _from_path(Path(argument))
        return
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
    media = [path for path in matches if path.suffix.lower() in _MEDIA_SUFFIXES and not path.is_dir()]
    if not media:
        hint = "matches no image or video; name a folder without a pattern" if matches else "matches no file"
        raise UserError(f"{argument}: {hint}")
    yield from ((path, path.stem) for path in media)


def _from_path(path: Path, source: str = "") -> Iterator[tuple[Path, str]]:
    if path.is_dir():
        yield from (
            (file, file.relative_to(path).with_suffix("").as_posix()) for file in image_files(path, _MEDIA_SUFFIXES)
        )
    elif os.path.lexists(path):
        yield path, path.stem
    else:
        raise UserError(f"{source}{path}: no such file or folder")
