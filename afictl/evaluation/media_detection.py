"""Detection in image files and videos that belong to no dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeAlias

import torch

from afictl.data.loader import read_files
from afictl.data.media_files import MediaFile
from afictl.data.videos import VideoFrame, read_frames
from afictl.detectors.image_memory import require_image_memory
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation.category_matching import own_categories
from afictl.evaluation.inference import ResizedImage, detect_batch, paste_in_original, resize_for_test
from afictl.evaluation.prediction_writer import CocoResult, coco_results
from afictl.evaluation.views import Views
from afictl.presets import InputConfig
from afictl.weights import LoadedDetector


class MediaPrediction(NamedTuple):
    """Detections in an image or in a frame of a video."""

    file: MediaFile
    size_hw: tuple[int, int]
    """Height and width in pixels, as displayed."""
    results: list[CocoResult]
    """Best first. ``image_id`` is 0 until the images are numbered."""
    frame: int | None = None
    """Number of the frame, from 0; None for an image."""
    time_s: float | None = None
    """Presentation time of the frame in seconds."""


class MediaFault(NamedTuple):
    """Why an image, or the rest of a video, cannot be read; it names the file."""

    message: str


Outcomes: TypeAlias = list[MediaPrediction | MediaFault]
"""Of a batch, in the order of its images."""


@dataclass(frozen=True)
class MediaDetector:
    """A detector, and how it detects in files.

    Args:
        loaded: on ``runtime.device``, in eval mode.
        runtime: each rank detects in every ``world_size``-th batch.
        threshold: minimum score.
        batch_size: images per forward pass; with ``views`` one image at a time is detected in.
        views: of each image; None: one view at the test size of the preset.

    Raises:
        UserError: too little memory for an image of the largest size.
    """

    loaded: LoadedDetector
    runtime: Runtime
    threshold: float
    batch_size: int = 1
    views: Views | None = None

    def __post_init__(self) -> None:
        if self.views is None:
            require_image_memory(self.loaded.preset, self.runtime.device)

    def detect_images(self, files: Sequence[MediaFile]) -> Iterator[Outcomes]:
        """Yield the outcomes of each batch of this rank."""
        batches = [files[k : k + self._batch_images] for k in range(0, len(files), self._batch_images)]
        own_batches = batches[self.runtime.rank :: self.runtime.world_size]
        paths = [file.path for batch in own_batches for file in batch]
        images = read_files(paths, partial(resize_for_test, self._input), self.runtime.workers)
        for batch in own_batches:
            read = list(zip(batch, islice(images, len(batch)), strict=True))
            readable = [(file, image) for file, image in read if not isinstance(image, UserError)]
            predictions = iter(self._detect([image for _, image in readable]))
            yield [
                MediaFault(str(image)) if isinstance(image, UserError) else MediaPrediction(file, *next(predictions))
                for file, image in read
            ]

    def detect_frames(self, video: MediaFile) -> Iterator[Outcomes]:
        """Yield the outcomes of each batch of frames of this rank; every rank decodes the whole video."""
        frames = enumerate(_frames_and_fault(video))
        turn = 0
        while batch := list(islice(frames, self._batch_images)):
            if turn % self.runtime.world_size == self.runtime.rank:
                decoded = [(k, frame) for k, frame in batch if isinstance(frame, VideoFrame)]
                faults = [frame for _, frame in batch if isinstance(frame, MediaFault)]
                images = [resize_for_test(self._input, frame.read()) for _, frame in decoded]
                rows = zip(decoded, self._detect(images), strict=True)
                yield [*(MediaPrediction(video, *result, k, frame.time_s) for (k, frame), result in rows), *faults]
            turn += 1

    @property
    def _batch_images(self) -> int:
        return 1 if self.views else self.batch_size

    @property
    def _input(self) -> InputConfig | None:
        return None if self.views else self.loaded.detector.input

    @torch.no_grad()
    def _detect(self, images: Sequence[ResizedImage]) -> list[tuple[tuple[int, int], list[CocoResult]]]:
        """Size and results of each image."""
        detector, sizes_hw = self.loaded.detector, [image.original_hw for image in images]
        categories = own_categories(self.loaded.classes, self.loaded.metadata)
        results = []
        tensors = [image.tensor for image in images]
        for detection, size_hw in zip(
            detect_batch(detector, tensors, sizes_hw, self.runtime, self.views), sizes_hw, strict=True
        ):
            keep = detection["scores"] >= self.threshold
            detection = {name: values[keep] for name, values in detection.items()}
            masks = paste_in_original(detector, detection, size_hw) if "mask_probs" in detection else None
            results.append((size_hw, coco_results(detection, masks, 0, categories)))
        return results


def _frames_and_fault(video: MediaFile) -> Iterator[VideoFrame | MediaFault]:
    """The frames of a video, and at its end the fault that ends it early."""
    try:
        yield from read_frames(video.path)
    except UserError as error:
        yield MediaFault(str(error))
