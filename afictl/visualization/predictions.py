"""Drawing of predictions on image files and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from afictl.data import read_image
from afictl.data.media_files import MediaFile
from afictl.data.videos import VideoWriter, read_frames
from afictl.evaluation.media_detection import MediaPrediction
from afictl.visualization.detections import annotate
from afictl.visualization.pictures import results_to_detection

_JPEG_QUALITY = 90


class PredictionDrawer:
    """Drawings ``FOLDER/NAME.jpg`` of images and ``FOLDER/NAME.mp4`` of videos, at the size of the source.

    Args:
        folder: created where missing.
        classes: class names in label order.
        categories: category id of each label; None for one that is never predicted.
    """

    def __init__(self, folder: Path, classes: Sequence[str], categories: Sequence[int | None]) -> None:
        self._folder, self._classes = folder, classes
        self._labels = {number: label for label, number in enumerate(categories, start=1) if number is not None}

    def draw_image(self, prediction: MediaPrediction) -> None:
        """Read the image again and write its drawing.

        Raises:
            UserError: it has changed and cannot be read.
        """
        path = self._path(prediction.file, ".jpg")
        self._annotated(read_image(prediction.file.path), prediction).save(path, quality=_JPEG_QUALITY)

    @contextmanager
    def video(self, file: MediaFile) -> Iterator[Callable[[MediaPrediction], None]]:
        """Decode a video again and write its drawing, to which the block adds the predictions on every frame."""
        frames = read_frames(file.path)
        with VideoWriter(self._path(file, ".mp4"), file.path) as writer:

            def add(prediction: MediaPrediction) -> None:
                frame = next(frames)
                writer.add(np.asarray(self._annotated(frame.read(), prediction)), frame)

            yield add

    def _annotated(self, image: Tensor, prediction: MediaPrediction) -> Image.Image:
        size_hw = (image.shape[1], image.shape[2])
        detection = results_to_detection(prediction.results, self._labels, prediction.size_hw, size_hw)
        return annotate(image, detection, self._classes)

    def _path(self, file: MediaFile, suffix: str) -> Path:
        path = self._folder / f"{file.name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
