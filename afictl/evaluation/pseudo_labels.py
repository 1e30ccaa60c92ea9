"""Pseudo labels: confident detections of a teacher on unlabelled images, as a COCO annotation file."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl import __version__
from afictl.data.formats.coco_writer import CocoWriter
from afictl.data.loader import read_files
from afictl.detectors.image_memory import require_image_memory
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation.category_matching import own_categories
from afictl.evaluation.inference import detect_batch, paste_in_original, resize_for_test
from afictl.evaluation.label_journal import LabelJournal, LabelledImage
from afictl.evaluation.prediction_writer import CocoResult, coco_results
from afictl.evaluation.views import Views, record_of
from afictl.progress import ProgressCallback
from afictl.weights import LoadedDetector

T = TypeVar("T")

SOURCE = "pseudo"
_MIN_SIDE_PX = 0.01
"""Smaller boxes would have no area, as coordinates are written with two decimals."""
_MAX_NAMES = 10


class PseudoLabel(CocoResult, total=False):
    """A COCO annotation with the score of the detection."""

    id: int
    area: float
    """Pixels."""
    iscrowd: int
    source: str


@dataclass
class ClassCount:
    """Counts of detections and pseudo labels of one class."""

    name: str
    category_id: int
    threshold: float
    detections: int = 0
    """Detections of any score."""
    labels: int = 0
    images: int = 0
    """Images with at least one pseudo label."""


@dataclass
class PseudoLabelReport:
    """Counts of pseudo labels and images, and examples."""

    classes: dict[int, ClassCount]
    """Counts by label, without placeholders."""
    images: int = 0
    """Readable images."""
    labelled_images: int = 0
    """Images with at least one pseudo label."""
    continued: int = 0
    """Images, also unreadable ones, whose labels an interrupted call has left."""
    cut_images: int = 0
    """Images with as many labels as the teacher's ``max_detections``, which may have cut more."""
    unreadable: list[str] = field(default_factory=list)
    """One line per skipped file."""
    examples: list[tuple[Path, list[PseudoLabel]]] = field(default_factory=list)
    """Evenly distributed labelled images with their annotations."""

    @property
    def labels(self) -> int:
        """Number of pseudo labels of all classes."""
        return sum(count.labels for count in self.classes.values())


class EvenSample(Generic[T]):
    """Sample of up to ``size`` items at even distances from a stream of unknown length."""

    def __init__(self, size: int) -> None:
        self._size, self._stride, self._length = size, 1, 0
        self._items: list[T] = []

    def add(self, item: T) -> None:
        """Process the next item of the stream."""
        if self._length % self._stride == 0:
            self._items.append(item)
        self._length += 1
        if len(self._items) > 2 * self._size:
            del self._items[1::2]
            self._stride *= 2

    def items(self) -> list[T]:
        """Return the sample in the order of the stream."""
        count = min(self._size, len(self._items))
        return [self._items[k * len(self._items) // count] for k in range(count)]


def class_thresholds(classes: Sequence[str], default: float, overrides: Mapping[str, float]) -> list[float]:
    """Minimum score of a pseudo label of each class.

    Raises:
        UserError: an override for an unknown class, or outside 0..1.
    """
    for name, value in overrides.items():
        if name not in classes:
            close = get_close_matches(name, classes, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(classes[:_MAX_NAMES])}"
            raise UserError(f"--class-threshold {name}={value:g}: the detector has no class '{name}'; {hint}")
        if not 0 <= value <= 1:
            raise UserError(f"--class-threshold {name}={value:g}: a score is between 0 and 1")
    return [overrides.get(name, default) for name in classes]


def write_pseudo_labels(
    teacher: LoadedDetector,
    files: Sequence[Path],
    folder: Path,
    output: Path,
    thresholds: Sequence[float],
    runtime: Runtime,
    *,
    info: Mapping[str, object],
    views: Views | None = None,
    examples: int = 8,
    settings: Mapping[str, object] | None = None,
    progress: ProgressCallback | None = None,
) -> PseudoLabelReport:
    """Detect in ``files`` and write the detections that reach their thresholds as COCO annotations to ``output``.

    The file has the class names and category ids of the teacher, and all readable images. Annotations have ``bbox``
    (xywh, pixels), ``area``, ``iscrowd`` 0, ``score``, ``"source": "pseudo"`` and, from a detector with masks,
    ``segmentation`` (compressed run lengths) and optionally ``mask_score``. ``info`` has the image folder and the
    unreadable files, which are skipped.

    Args:
        teacher: on ``runtime.device``, in eval mode.
        files: images inside ``folder``.
        folder: folder to which file names are relative.
        output: file to write atomically.
        thresholds: minimum score of a pseudo label of each label 1..K; see ``class_thresholds``.
        runtime: runtime with one rank.
        info: further entries of ``info``.
        views: several views of each image; None: one view at the test size of the preset.
        examples: number of labelled images in the report.
        settings: plain values that identify the teacher and whatever else the labels depend on. The labels of each
            image are then kept in ``OUTPUT.partial`` until all are done, and a later call with the same settings does
            not repeat those that an interrupted one has left. None: nothing is kept.
        progress: called with the number of images done and of all images.

    Raises:
        UserError: no image is readable, no detection reaches its threshold, or there is too little memory; nothing is
            written.
    """
    if views is None:
        require_image_memory(teacher.preset, runtime.device)
    report = PseudoLabelReport(_class_counts(teacher, thresholds))
    sample = EvenSample[tuple[Path, list[PseudoLabel]]](examples)
    names = (file.relative_to(folder).as_posix() for file in files)
    with (
        CocoWriter(output) as writer,
        LabelJournal(output, settings) if settings else nullcontext() as journal,
        torch.no_grad(),
    ):
        label_files = partial(_label_files, teacher, folder, views, runtime)
        images = _continued_labels(journal, names, files, report, label_files)
        for k, image in enumerate(images):
            if image["error"]:
                report.unreadable.append(image["error"])
            else:
                annotations = _count(image, report)
                height, width = image["size_hw"]
                name = image["file"]
                writer.add({"id": report.images, "file_name": name, "height": height, "width": width}, annotations)
                if annotations:
                    sample.add((files[k], annotations))
            if progress is not None:
                progress(k + 1, len(files))
        report.examples = sample.items()
        if journal:
            journal.remove()
        _require_labels(report, folder)
        images_info = {
            **record_of(views),
            **info,
            "image_folder": _relative_folder(folder, output),
            "unreadable": [line.replace(f"image {folder}{os.sep}", "image ", 1) for line in report.unreadable],
        }
        writer.finish(
            info={"description": "pseudo labels", "afictl": __version__, **images_info},
            categories=[{"id": count.category_id, "name": count.name} for count in report.classes.values()],
        )
    return report


def _relative_folder(folder: Path, output: Path) -> str:
    """The image folder as seen from the file, so that both can be moved, and no path of the user's is passed on."""
    try:
        return Path(os.path.relpath(folder.resolve(), output.parent.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return str(folder.resolve())


def _class_counts(teacher: LoadedDetector, thresholds: Sequence[float]) -> dict[int, ClassCount]:
    rows = zip(teacher.classes, own_categories(teacher.classes, teacher.metadata), thresholds, strict=True)
    return {
        label: ClassCount(name, category_id, threshold)
        for label, (name, category_id, threshold) in enumerate(rows, start=1)
        if category_id is not None
    }


def _continued_labels(
    journal: LabelJournal | None,
    names: Iterator[str],
    files: Sequence[Path],
    report: PseudoLabelReport,
    label_files: Callable[[Sequence[Path], Mapping[int, ClassCount]], Iterator[LabelledImage]],
) -> Iterator[LabelledImage]:
    """Yield the labels in the journal, and then those of the other files, which are added to it."""
    for image in journal.read(names) if journal else ():
        report.continued += 1
        yield image
    for image in label_files(files[report.continued :], report.classes):
        if journal:
            journal.append(image)
        yield image


def _label_files(
    teacher: LoadedDetector,
    folder: Path,
    views: Views | None,
    runtime: Runtime,
    files: Sequence[Path],
    classes: Mapping[int, ClassCount],
) -> Iterator[LabelledImage]:
    """Read ``files`` and yield the labels of each."""
    images = read_files(files, partial(resize_for_test, None if views else teacher.detector.input), runtime.workers)
    for file, image in zip(files, images, strict=True):
        labelled = LabelledImage(
            file=file.relative_to(folder).as_posix(),
            size_hw=[],
            detections={},
            labels=[],
            annotations=[],
            is_cut=False,
            error="",
        )
        if isinstance(image, UserError):
            yield {**labelled, "error": str(image)}
            continue
        size_hw = image.original_hw
        (detection,) = detect_batch(teacher.detector, [image.tensor], [size_hw], runtime, views)
        counts = Counter(map(str, detection["labels"].tolist()))
        detection = _select(detection, classes)
        labelled["labels"], labelled["annotations"] = _annotations(teacher, detection, size_hw)
        is_cut = len(detection["scores"]) == teacher.preset.detector.max_detections
        yield {**labelled, "size_hw": list(size_hw), "detections": dict(counts), "is_cut": is_cut}


def _select(detection: dict[str, Tensor], classes: Mapping[int, ClassCount]) -> dict[str, Tensor]:
    """The detections that reach the threshold of their class and have an area."""
    labels, boxes, scores = (detection[name] for name in ("labels", "boxes", "scores"))
    thresholds = scores.new_full((max([0, *classes]) + 1,), math.inf)
    for label, count in classes.items():
        thresholds[label] = count.threshold
    keep = (scores >= thresholds[labels]) & (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE_PX).all(dim=1)
    return {name: values[keep] for name, values in detection.items()}


def _annotations(
    teacher: LoadedDetector, detection: dict[str, Tensor], size_hw: tuple[int, int]
) -> tuple[list[int], list[dict[str, object]]]:
    """Labels and annotations without ids of one image; masks without pixels are dropped."""
    masks = paste_in_original(teacher.detector, detection, size_hw) if "mask_probs" in detection else None
    annotations: list[dict[str, object]] = []
    for result in coco_results(detection, masks, 0, own_categories(teacher.classes, teacher.metadata)):
        x, y, width, height = (round(value, 2) for value in result["bbox"])
        segmentation = result.pop("segmentation", None)
        area = float(coco_mask.area(segmentation)) if segmentation else 0.0
        annotation: dict[str, object] = {
            **result,
            "bbox": [x, y, width, height],
            "score": round(result["score"], 6),
            "area": area or round(width * height, 2),
            "iscrowd": 0,
            "source": SOURCE,
        }
        if segmentation and area:
            annotation["segmentation"] = segmentation
        annotations.append(annotation)
    return detection["labels"].tolist(), annotations


def _count(image: LabelledImage, report: PseudoLabelReport) -> list[PseudoLabel]:
    """Count a readable image and its labels; returns its annotations with the ids that follow."""
    number = report.labels
    selected = Counter(image["labels"])
    for label, count in report.classes.items():
        count.detections += image["detections"].get(str(label), 0)
        count.labels += selected[label]
        count.images += selected[label] > 0
    report.images += 1
    report.labelled_images += bool(selected)
    report.cut_images += image["is_cut"]
    return [
        cast(PseudoLabel, {"id": number + k, **annotation, "image_id": report.images})
        for k, annotation in enumerate(image["annotations"], start=1)
    ]


def _require_labels(report: PseudoLabelReport, folder: Path) -> None:
    if not report.images:
        raise UserError(f"{folder}: no image is readable; the first: {report.unreadable[0]}")
    if not report.labels:
        total = sum(count.detections for count in report.classes.values())
        hint = "lower --threshold" if total else "the teacher has no detections"
        raise UserError(f"{folder}: none of {total} detections on {report.images} images reaches its threshold; {hint}")
