"""Check of image files, which are decoded in parallel as in training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from PIL import Image

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
from afictl.errors import UserError
from afictl.progress import ProgressCallback

_CHUNK_IMAGES = 16
_MODES = {"1": "grey", "L": "grey", "LA": "grey", "CMYK": "cmyk", "P": "palette", "PA": "palette"}


def check_image_files(
    image_dir: Path,
    sizes_hw: Sequence[tuple[str, tuple[int, int]]],
    report: SplitReport,
    progress: ProgressCallback | None = None,
) -> None:
    """Decode every file of ``sizes_hw``, pairs of file name and annotated size, and add findings to ``report``.

    Raises:
        UserError: a process that decodes images was killed.
    """
    report.images_checked = True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(cores, len(sizes_hw) // _CHUNK_IMAGES))
    done = 0
    try:
        with ProcessPoolExecutor(workers) as pool:
            findings_per_image = pool.map(partial(image_findings, image_dir), sizes_hw, chunksize=_CHUNK_IMAGES)
            for (name, _), findings in zip(sizes_hw, findings_per_image, strict=True):
                for rule, detail in findings:
                    report.add(rule, Location(name, detail=detail))
                done += 1
                if progress:
                    progress(done, len(sizes_hw))
    except BrokenProcessPool:
        raise UserError(
            f"{image_dir}: a reading process was killed after {done} of {len(sizes_hw)} images, before the result of "
            f"{sizes_hw[done][0]}; if memory ran out, free some, or check without the image files: --no-images"
        ) from None


def image_findings(image_dir: Path, item: tuple[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """Findings of one (file name, annotated size): pairs of a key of ``RULES`` and a detail."""
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
