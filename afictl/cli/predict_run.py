"""The work of ``afictl predict``: files are listed, detected in, written and drawn, on all ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from afictl.data.media_files import MediaFile, find_media
from afictl.data.videos import count_frames, require_pyav
from afictl.distributed import Runtime, gather_in_turn, run_on_rank_zero
from afictl.errors import UserError
from afictl.evaluation.category_matching import own_categories
from afictl.evaluation.media_detection import MediaDetector, MediaFault, MediaPrediction, Outcomes
from afictl.evaluation.prediction_formats import prediction_files
from afictl.files import atomic_folder
from afictl.progress import show_progress
from afictl.visualization.predictions import PredictionDrawer

if TYPE_CHECKING:
    from afictl.evaluation.prediction_formats import Add

_MAX_ID_DIGITS = 18


@dataclass
class PredictionReport:
    """Counts of images and detections, and faults."""

    images: int = 0
    frames: int = 0
    """Frames of videos."""
    detections: int = 0
    faults: list[str] = field(default_factory=list)
    """Why files were skipped, or videos ended early."""


def read_media(arguments: Sequence[str], runtime: Runtime) -> list[MediaFile]:
    """The files of the command line, images before videos, on all ranks; rank 0 reads standard input.

    Raises:
        UserError: as ``find_media``, or there is a video and PyAV is not installed.
    """

    def find() -> list[MediaFile]:
        files = find_media(arguments, map(os.fsdecode, sys.stdin.buffer))  # bytes of a path may be no text
        for video in [file for file in files if file.is_video][:1]:
            require_pyav(video.path)
        return sorted(files, key=lambda file: file.is_video)

    return run_on_rank_zero(find, runtime.rank, runtime.world_size)


def predict_files(
    detector: MediaDetector, files: Sequence[MediaFile], output: Path, formats: Sequence[str], *, draw: bool
) -> PredictionReport:
    """Detect in ``files`` and write the predictions to ``output``, completely or not at all.

    Args:
        detector: all its ranks must call this.
        files: images before videos.
        output: folder, absent or empty.
        formats: keys of ``FORMATS``.
        draw: whether to draw the detections too.

    Raises:
        UserError: no file can be read; nothing is written.
    """
    loaded, runtime = detector.loaded, detector.runtime
    ids = own_categories(loaded.classes, loaded.metadata)
    categories = {number: name for number, name in zip(ids, loaded.classes, strict=True) if number is not None}
    report = PredictionReport()
    with ExitStack() as stack:
        folder = stack.enter_context(_shared_draft(output, runtime))
        drawer = PredictionDrawer(folder / "drawn", loaded.classes, ids) if draw else None
        add = stack.enter_context(prediction_files(folder, formats, categories)) if runtime.is_main_process else None
        take = stack.enter_context(_collector(files, report, add, runtime))
        images = [file for file in files if not file.is_video]
        batches = detector.detect_images(images)
        gather_in_turn(_drawn(batches, drawer) if drawer else batches, take, runtime.world_size)
        for video in files[len(images) :]:
            _predict_video(detector, video, drawer if runtime.is_main_process else None, take)
        if not report.images + report.frames:
            raise UserError(f"no input can be read; the first: {report.faults[0]}")
    return report


@contextmanager
def _shared_draft(output: Path, runtime: Runtime) -> Iterator[Path]:
    """Draft of the output folder, made by rank 0 and known to all ranks."""
    with atomic_folder(output) if runtime.is_main_process else nullcontext() as draft:
        yield run_on_rank_zero(lambda: draft or output, runtime.rank, runtime.world_size)


@contextmanager
def _collector(
    files: Sequence[MediaFile], report: PredictionReport, add: Add | None, runtime: Runtime
) -> Iterator[Callable[[Outcomes], None]]:
    """Yields a function that numbers, counts and writes the outcomes of a batch, on all ranks in the same order."""
    numbers = _numbers_of_names(files)
    total = sum(count_frames(file.path) if file.is_video else 1 for file in files)

    with show_progress(Console(soft_wrap=True, quiet=not runtime.is_main_process), _items(files)) as progress:

        def take(outcomes: Outcomes) -> None:
            for outcome in outcomes:
                if isinstance(outcome, MediaFault):
                    report.faults.append(outcome.message)
                else:
                    report.images += outcome.frame is None
                    report.frames += outcome.frame is not None
                    report.detections += len(outcome.results)
                    if add is not None:
                        add(outcome, numbers.get(outcome.file.path, report.images + report.frames))
                count = report.images + report.frames + len(report.faults)
                progress(count, max(total, count))

        yield take


def _items(files: Sequence[MediaFile]) -> str:
    videos = sum(file.is_video for file in files)
    return "images" if not videos else "frames" if videos == len(files) else "images and frames"


def _drawn(batches: Iterator[Outcomes], drawer: PredictionDrawer) -> Iterator[Outcomes]:
    """Draw the images of this rank."""
    for outcomes in batches:
        for outcome in outcomes:
            if isinstance(outcome, MediaPrediction):
                drawer.draw_image(outcome)
        yield outcomes


def _predict_video(
    detector: MediaDetector, video: MediaFile, drawer: PredictionDrawer | None, take: Callable[[Outcomes], None]
) -> None:
    """Detect in the frames of a video; with ``drawer``, draw them in their order."""
    with drawer.video(video) if drawer else nullcontext() as draw:

        def take_and_draw(outcomes: Outcomes) -> None:
            take(outcomes)
            for outcome in outcomes:
                if draw and isinstance(outcome, MediaPrediction):
                    draw(outcome)

        gather_in_turn(detector.detect_frames(video), take_and_draw, detector.runtime.world_size)


def _numbers_of_names(files: Sequence[MediaFile]) -> dict[Path, int]:
    """Image ids by path, if the names of all files are different numbers, as COCO's; otherwise none."""
    stems = [file.path.stem for file in files]
    if any(file.is_video for file in files):
        return {}
    if not all(stem.isascii() and stem.isdigit() and len(stem) <= _MAX_ID_DIGITS for stem in stems):
        return {}
    numbers = {file.path: int(stem) for file, stem in zip(files, stems, strict=True)}
    return numbers if len(set(numbers.values())) == len(files) else {}
