"""Check of image files, which are decoded in parallel as in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch.utils import data

from afictl.data.check_report import Location, SplitReport
from afictl.data.folders import absence_hint, leaves_folder, portable_name
from afictl.data.image_faults import MISSING, file_fault
from afictl.data.images import (
    displayed_size,
    has_unclear_orientation,
    opened_image,
    orientation_of,
    read_image,
    stored_size,
)
from afictl.data.reading_processes import read_batches
from afictl.errors import UserError, is_lost_worker
from afictl.machine import usable_cores
from afictl.progress import ProgressCallback

_AnnotatedSize: TypeAlias = tuple[str, tuple[int, int]]
"""File name, height and width."""
_Findings: TypeAlias = list[tuple[str, str]]
"""Pairs of a key of ``RULES`` and a detail."""

_CHUNK_IMAGES = 16
_ADVICE = "check the storage of the images, or check without the image files: --no-images"
_MODES = {"1": "grey", "L": "grey", "LA": "grey", "CMYK": "cmyk", "P": "palette", "PA": "palette"}


def check_image_files(
    image_dir: Path,
    sizes_hw: Sequence[_AnnotatedSize],
    report: SplitReport,
    progress: ProgressCallback | None = None,
) -> None:
    """Decode every file of ``sizes_hw``, pairs of file name and annotated size, and add findings to ``report``.

    Raises:
        UserError: a process that decodes images was killed, or the processes send nothing.
    """
    report.images_checked = True
    count = 0
    try:
        for (name, _), findings in zip(sizes_hw, _findings_per_image(image_dir, sizes_hw), strict=True):
            for rule, detail in findings:
                report.add(rule, Location(name, detail=detail))
            count += 1
            if progress:
                progress(count, len(sizes_hw))
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        raise UserError(
            f"{image_dir}: a reading process was killed after {count} of {len(sizes_hw)} images, before the result of "
            f"{sizes_hw[count][0]}; if memory ran out, free some, or check without the image files: --no-images"
        ) from None


def _findings_per_image(image_dir: Path, sizes_hw: Sequence[_AnnotatedSize]) -> Iterator[_Findings]:
    cores = usable_cores()
    workers = max(1, min(cores, len(sizes_hw) // _CHUNK_IMAGES))
    chunks = (list(sizes_hw[k : k + _CHUNK_IMAGES]) for k in range(0, len(sizes_hw), _CHUNK_IMAGES))

    def make_loader(
        requests: Iterable[list[_AnnotatedSize]], init_worker: Callable[[int], None]
    ) -> data.DataLoader[_Findings]:
        return data.DataLoader(
            _ImageFindings(image_dir),
            batch_sampler=requests,
            num_workers=workers,
            collate_fn=list,
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # a number drawn from the global one would change later ones
        )

    for findings in read_batches(make_loader, chunks, lambda chunk: str(image_dir / chunk[0][0]), _ADVICE):
        yield from findings


class _ImageFindings(data.Dataset[_Findings]):
    """``image_findings`` of the file names and sizes that are its indices."""

    def __init__(self, image_dir: Path) -> None:
        self.image_dir = image_dir

    def __getitem__(self, item: _AnnotatedSize) -> _Findings:
        return image_findings(self.image_dir, item)


def image_findings(image_dir: Path, item: _AnnotatedSize) -> _Findings:
    """Findings of one image file with its annotated size."""
    name, size_hw = portable_name(image_dir, item[0]), item[1]
    path = image_dir / name
    if leaves_folder(image_dir, name):
        return [("file-outside", "")]
    fault = file_fault(path)
    if fault.endswith(MISSING):  # itself, or the target of a link
        return [("missing-file", absence_hint(image_dir, name) if fault == MISSING else fault)]
    try:
        with opened_image(path) as image:
            stored_hw, displayed_hw = stored_size(image), displayed_size(image)
            findings = [*_rotation(image, size_hw), *_colours(image)]
            if Image.MAX_IMAGE_PIXELS and stored_hw[0] * stored_hw[1] > Image.MAX_IMAGE_PIXELS:
                findings.append(("large-image", f"{stored_hw[1]}x{stored_hw[0]} pixels"))
            if getattr(image, "n_frames", 1) > 1:
                findings.append(("several-frames", f"{getattr(image, 'n_frames', 1)} frames"))
        if size_hw not in (stored_hw, displayed_hw):
            detail = f"{displayed_hw[1]}x{displayed_hw[0]} pixels, annotated {size_hw[1]}x{size_hw[0]}"
            return [("wrong-size", detail), *findings]
        read_image(path, size_hw)
    except UserError as error:
        return [("unreadable-file", str(error).removeprefix(f"image {path} "))]
    return findings


def _rotation(image: Image.Image, size_hw: tuple[int, int]) -> list[tuple[str, str]]:
    orientation = orientation_of(image)
    if orientation == 1:
        return []
    if has_unclear_orientation(image):
        return [("exif-unclear", f"orientation {orientation}")]
    return [("exif-followed" if displayed_size(image) == size_hw else "exif-ignored", "")]


def _colours(image: Image.Image) -> list[tuple[str, str]]:
    mode = image.mode
    rules = []
    if mode.startswith("I") or image.info.get("bits") == 16:
        rules.append("deep")
    elif mode in _MODES:
        rules.append(_MODES[mode])
    elif mode not in ("RGB", "RGBA"):
        rules.append("other-mode")
    if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rules.append("transparent")
    return [(rule, mode) for rule in rules]
