"""Check of image files, which are decoded in parallel as in training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from afictl.data.check_report import Location, SplitReport
from afictl.data.images import UNREADABLE, displayed_size, is_rotated, read_image
from afictl.errors import UserError, one_line
from afictl.progress import ProgressCallback

_CHUNK_IMAGES = 16
_MODES = {"1": "grey", "L": "grey", "LA": "grey", "CMYK": "cmyk", "P": "palette", "PA": "palette"}


def check_image_files(
    image_dir: Path,
    sizes_hw: Sequence[tuple[str, tuple[int, int]]],
    report: SplitReport,
    progress: ProgressCallback | None = None,
) -> None:
    """Decode every file of ``sizes_hw``, pairs of file name and annotated size, and add findings to ``report``."""
    report.images_checked = True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(cores, len(sizes_hw) // _CHUNK_IMAGES))
    with ProcessPoolExecutor(workers) as pool:
        findings_per_image = pool.map(partial(image_findings, image_dir), sizes_hw, chunksize=_CHUNK_IMAGES)
        for done, ((name, _), findings) in enumerate(zip(sizes_hw, findings_per_image, strict=True), start=1):
            for rule, detail in findings:
                report.add(rule, Location(name, detail=detail))
            if progress:
                progress(done, len(sizes_hw))


def image_findings(image_dir: Path, item: tuple[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """Findings of one (file name, annotated size): pairs of a key of ``RULES`` and a detail."""
    name, size_hw = item
    path = image_dir / name
    if not path.is_file():
        return [("missing-file", "")]
    try:
        with Image.open(path) as image:
            stored_hw, displayed_hw = (image.height, image.width), displayed_size(image)
            findings = [*_rotation(image, size_hw), *_colours(image)]
    except UNREADABLE as error:
        return [("unreadable-file", one_line(error))]
    if size_hw not in (stored_hw, displayed_hw):
        detail = f"{displayed_hw[1]}x{displayed_hw[0]} pixels, annotated {size_hw[1]}x{size_hw[0]}"
        return [("wrong-size", detail), *findings]
    try:
        read_image(path, size_hw)
    except UserError as error:
        return [("unreadable-file", str(error).removeprefix(f"image {path} "))]
    return findings


def _rotation(image: Image.Image, size_hw: tuple[int, int]) -> list[tuple[str, str]]:
    if not is_rotated(image):
        return []
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
