"""Files of predictions on images and videos: COCO results, YOLO labels, CSV and JSON lines."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from afictl.data.formats.coco_writer import CocoWriter
from afictl.evaluation.media_detection import MediaPrediction
from afictl.evaluation.prediction_writer import ResultsFile
from afictl.run_folder import PREDICTIONS

CSV_FIELDS = ("file", "frame", "time_s", "image_id", "category_id", "class", "score", "x", "y", "width", "height")


class Add(Protocol):
    """Appends the predictions on an image, ``image_id`` of which is that of its results."""

    def __call__(self, prediction: MediaPrediction, image_id: int) -> None:
        """Append the predictions on an image."""


@contextmanager
def prediction_files(folder: Path, formats: Sequence[str], categories: Mapping[int, str]) -> Iterator[Add]:
    """Open the files of several formats; yields a function that appends the predictions on an image to all.

    Args:
        folder: existing folder; its files are complete at the end of the block.
        formats: keys of ``FORMATS``.
        categories: class name by category id, in label order.

    Raises:
        OSError: a file cannot be written.
    """
    with ExitStack() as stack:
        adds = [stack.enter_context(FORMATS[form](folder, categories)) for form in formats]

        def add(prediction: MediaPrediction, image_id: int) -> None:
            for add_to_format in adds:
                add_to_format(prediction, image_id)

        yield add


@contextmanager
def _coco(folder: Path, categories: Mapping[int, str]) -> Iterator[Add]:
    """``predictions.json``, a list of COCO results, and ``image_info.json`` with images and categories."""
    file = ResultsFile(folder / PREDICTIONS)
    try:
        with CocoWriter(folder / "image_info.json") as images:

            def add(prediction: MediaPrediction, image_id: int) -> None:
                file.add(b",\n".join(msgspec.json.encode({**r, "image_id": image_id}) for r in prediction.results))
                images.add({"id": image_id, **_image_fields(prediction, "file_name")}, ())

            yield add
            images.finish(categories=[{"id": number, "name": name} for number, name in categories.items()])
            file.finish()
    finally:
        file.discard()


@contextmanager
def _yolo(folder: Path, categories: Mapping[int, str]) -> Iterator[Add]:
    """``labels/NAME.txt``, of a frame ``labels/NAME/FRAME.txt``: ``CLASS X Y WIDTH HEIGHT CONFIDENCE`` by line.

    Coordinates are the centre and the size of the box in fractions of the image; ``classes.txt`` has the class names.
    """
    numbers = {category_id: number for number, category_id in enumerate(categories)}
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in categories.values()), encoding="utf-8")

    def add(prediction: MediaPrediction, image_id: int) -> None:
        height, width = prediction.size_hw
        frame = "" if prediction.frame is None else f"/{prediction.frame:06d}"
        path = folder / "labels" / f"{prediction.file.name}{frame}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            for result in prediction.results:
                x, y, w, h = result["bbox"]
                box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                words = (f"{number:.6f}" for number in (*box, result["score"]))
                file.write(" ".join([str(numbers[result["category_id"]]), *words]) + "\n")

    yield add


@contextmanager
def _csv(folder: Path, categories: Mapping[int, str]) -> Iterator[Add]:
    """``predictions.csv``: a row for each detection, boxes as the left upper corner and the size in pixels."""
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_FIELDS)

        def add(prediction: MediaPrediction, image_id: int) -> None:
            start = (_path_text(prediction), prediction.frame, prediction.time_s, image_id)
            for result in prediction.results:
                number, score = result["category_id"], round(result["score"], 6)
                box = (round(value, 2) for value in result["bbox"])
                writer.writerow([*start, number, categories[number], score, *box])

        yield add


@contextmanager
def _jsonl(folder: Path, categories: Mapping[int, str]) -> Iterator[Add]:
    """``predictions.jsonl``: an object for each image with its list of detections, also where it is empty."""
    with (folder / "predictions.jsonl").open("wb") as file:

        def add(prediction: MediaPrediction, image_id: int) -> None:
            detections = [
                {"class": categories[result["category_id"]], **{k: v for k, v in result.items() if k != "image_id"}}
                for result in prediction.results
            ]
            record = {**_image_fields(prediction, "file"), "image_id": image_id, "detections": detections}
            file.write(msgspec.json.encode(record) + b"\n")

        yield add


FORMATS = {"coco": _coco, "yolo": _yolo, "csv": _csv, "jsonl": _jsonl}


def _image_fields(prediction: MediaPrediction, path_key: str) -> dict[str, object]:
    height, width = prediction.size_hw
    fields: dict[str, object] = {path_key: _path_text(prediction), "height": height, "width": width}
    if prediction.frame is not None:
        fields |= {"frame": prediction.frame, "time_s": prediction.time_s}
    return fields


def _path_text(prediction: MediaPrediction) -> str:
    """The path; its bytes may be no text."""
    return os.fsencode(prediction.file.path).decode(errors="replace")
