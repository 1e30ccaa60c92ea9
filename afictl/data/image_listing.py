"""Check and fingerprint of the image files of a dataset before they are read, by one listing of each folder."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain
from pathlib import Path

from afictl.data.dataset import Dataset
from afictl.data.folders import absence_hint, leaves_folder, portable_name
from afictl.data.image_faults import HEIC_SUFFIXES, MISSING, content_fault, file_fault, status_fault
from afictl.data.images import has_unclear_orientation, opened_image
from afictl.errors import UserError

_THREADS = 8
"""They wait for a network file system together."""
_MIN_IMAGE_BYTES = 1024
"""The header of smaller files is read: many of them are pointers of Git LFS and the like."""
_MAX_HEADERS = 1024
"""Files whose header is read, whatever their size and suffix: all of a small dataset, else an even sample."""
_MAX_NAMES = 3
_SAMPLE_IMAGES = 64


def require_images(
    dataset: Dataset,
    images: Iterable[int] | None = None,
    *,
    advice: str = "'afictl data check' lists every one",
) -> None:
    """Check that the image files of a dataset can be there, before hours of work that a missing one would end.

    Checked are presence, kind, size and the header of tiny files and of 1,024 others. No pixels are decoded: 118,000
    files take about a second.

    Args:
        dataset: the dataset.
        images: positions of the images that will be read; None: all.
        advice: end of the error.

    Raises:
        UserError: files are missing or cannot be images; names the first, with the reason.
    """
    names = [portable_name(dataset.image_dir, name) for name in dataset.file_names]
    selection = names if images is None else [names[k] for k in images]
    faults = image_faults(dataset.image_dir, selection)
    if faults:
        listed = "; ".join(f"{name} {fault}" for name, fault in list(faults.items())[:_MAX_NAMES])
        more = "; ..." if len(faults) > _MAX_NAMES else ""
        name, fault = next(iter(faults.items()))
        hint = absence_hint(dataset.image_dir, name) if fault == MISSING else ""
        raise UserError(
            f"{dataset.annotation_file}: {len(faults)} of its {len(selection)} images cannot be read in "
            f"{dataset.image_dir}: {listed}{more}; {f'{hint}; ' if hint else ''}{advice}"
        )


def image_faults(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Why files below ``folder`` cannot be images, by name, for those of ``names`` that cannot."""
    inside = [name for name in dict.fromkeys(names) if not leaves_folder(folder, name)]
    entries = {parent: _entries(folder / parent) for parent in {os.path.dirname(name) for name in inside}}

    sample = set(inside[:: -(-len(inside) // _MAX_HEADERS) or 1])

    def faults_of(part: Sequence[str]) -> Iterator[tuple[str, str]]:
        for name in part:
            parent, file = os.path.split(name)
            if fault := _fault(folder, name, entries[parent].get(file), name in sample):
                yield name, fault

    parts = [inside[k::_THREADS] for k in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        faults = dict(chain.from_iterable(pool.map(lambda part: list(faults_of(part)), parts)))
    faults |= {name: "is outside the folder" for name in names if leaves_folder(folder, name)}
    return {name: faults[name] for name in dict.fromkeys(names) if name in faults}


def image_sizes_fingerprint(dataset: Dataset, images: Iterable[int] | None = None) -> str:
    """Fingerprint of the sizes in bytes of image files, which nearly every change of their pixels changes.

    No file is opened. The order of the images counts, their names do not.

    Args:
        dataset: the dataset.
        images: positions of the images; None: all.

    Returns:
        The fingerprint; empty if a file is absent, which ``require_images`` names.
    """
    names = dataset.file_names
    sizes = _file_sizes(dataset.image_dir, names if images is None else [names[k] for k in images])
    return "" if None in sizes else f"sizes:{sha256(repr(sizes).encode()).hexdigest()}"


def latest_file(folder: Path) -> str:
    """Name of the file in a folder that was changed last; empty if there is none, or it is no folder."""
    entries = [entry for entry in _entries(folder).values() if entry.is_file()]
    return max(entries, key=lambda entry: entry.stat().st_mtime).name if entries else ""


def _file_sizes(folder: Path, names: Sequence[str]) -> list[int | None]:
    """Size in bytes of each file below ``folder``; None of one that is absent or outside."""
    paths = [portable_name(folder, name) for name in names]
    entries = {parent: _entries(folder / parent) for parent in {os.path.dirname(path) for path in paths}}

    def sizes_of(part: Sequence[str]) -> list[int | None]:
        return [_size(folder, path, entries[os.path.dirname(path)].get(os.path.basename(path))) for path in part]

    length = -(-len(paths) // _THREADS) or 1
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(sizes_of, (paths[k : k + length] for k in range(0, len(paths), length)))
        return list(chain.from_iterable(parts))


def _size(folder: Path, path: str, entry: os.DirEntry[str] | None) -> int | None:
    try:  # a file system may accept other names than the listed one, as in capital letters
        return None if leaves_folder(folder, path) else (entry or folder / path).stat().st_size
    except (OSError, ValueError):
        return None


def have_equal_content(first: Path, second: Path) -> bool:
    """Whether both are regular files that can be read and have the same bytes, whatever their names."""
    try:
        return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)
    except OSError:  # a name that is too long, or no permission
        return False


def orientation_note(dataset: Dataset) -> str:
    """Note on images whose EXIF orientation the annotated size cannot confirm; empty if a sample of 64 has none."""
    step = -(-len(dataset) // _SAMPLE_IMAGES) or 1
    paths = [dataset.image_path(i) for i in range(0, len(dataset), step)]
    unclear = [path for path in paths if _is_unclear(path)]
    if not unclear:
        return ""
    return (
        f"note: {len(unclear)} of {len(paths)} sampled images of {dataset.image_dir}, such as {unclear[0].name}, have "
        "an EXIF orientation that keeps their size: it is followed, but nothing tells whether their boxes follow it; "
        "'afictl data check' lists all"
    )


def _entries(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError:
        return {}


def _fault(folder: Path, name: str, entry: os.DirEntry[str] | None, read_header: bool) -> str:
    if entry is None:  # a file system may accept other names than the listed one, as in capital letters
        return file_fault(folder / name)
    try:
        status = entry.stat()
    except OSError:
        return file_fault(folder / name)
    if fault := status_fault(status):
        return fault
    path = folder / name
    if read_header or status.st_size < _MIN_IMAGE_BYTES:
        return content_fault(path) or _header_fault(path)
    return content_fault(path) if path.suffix.lower() in HEIC_SUFFIXES else ""


def _header_fault(path: Path) -> str:
    """Why a file has no header of an image; the pixels are not decoded."""
    try:
        with opened_image(path):
            return ""
    except UserError as error:
        return str(error).removeprefix(f"image {path} ")


def _is_unclear(path: Path) -> bool:
    try:
        with opened_image(path) as image:
            return has_unclear_orientation(image)
    except UserError:  # told where the image is read
        return False
