"""The check of image files: each is decoded as training would, in parallel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from afictl.data.check_report import Place, SplitReport
from afictl.data.images import UNREADABLE, is_rotated, read_image, shown_size
from afictl.errors import UserError, one_line
from afictl.progress import ProgressCallback

_CHUNK = 16
_MODES = {"1": "grey", "L": "grey", "LA": "grey", "CMYK": "cmyk", "P": "palette", "PA": "palette"}


def check_images(
    image_dir: Path,
    sizes_hw: Sequence[tuple[str, tuple[int, int]]],
    report: SplitReport,
    progress: ProgressCallback | None = None,
) -> None:
    """Decode every file of ``sizes_hw``, pairs of file name and annotated size, and note what is found."""
    report.images_checked = True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(cores, len(sizes_hw) // _CHUNK))
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(partial(image_findings, image_dir), sizes_hw, chunksize=_CHUNK)
        for done, ((name, _), findings) in enumerate(zip(sizes_hw, found, strict=True), start=1):
            for rule, detail in findings:
                report.add(rule, Place(name, detail=detail))
            if progress:
                progress(done, len(sizes_hw))


def image_findings(image_dir: Path, item: tuple[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """What one (file name, annotated size) shows: pairs of a key of ``RULES`` and a detail."""
    name, size_hw = item
    path = image_dir / name
    if not path.is_file():
        return [("missing-file", "")]
    try:
        with Image.open(path) as image:
            stored, shown = (image.height, image.width), shown_size(image)
            findings = [*_rotation(image, size_hw), *_colours(image)]
    except UNREADABLE as error:
        return [("unreadable-file", one_line(error))]
    if size_hw not in (stored, shown):
        detail = f"{shown[1]}x{shown[0]} pixels, annotated {size_hw[1]}x{size_hw[0]}"
        return [("wrong-size", detail), *findings]
    try:
        read_image(path, size_hw)
    except UserError as error:
        return [("unreadable-file", str(error).removeprefix(f"image {path} "))]
    return findings


def _rotation(image: Image.Image, size_hw: tuple[int, int]) -> list[tuple[str, str]]:
    if not is_rotated(image):
        return []
    return [("exif-followed" if shown_size(image) == size_hw else "exif-ignored", "")]


def _colours(image: Image.Image) -> list[tuple[str, str]]:
    mode = image.mode
    found = []
    if mode.startswith("I") or image.info.get("bits") == 16:
        found.append("deep")
    elif mode in _MODES:
        found.append(_MODES[mode])
    elif mode not in ("RGB", "RGBA"):
        found.append("other-mode")
    if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        found.append("transparent")
    return [(rule, mode) for rule in found]
