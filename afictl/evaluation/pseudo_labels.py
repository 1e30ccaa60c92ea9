"""Pseudo labels: what a trained detector is sure of on images that nobody annotated, as a COCO annotation file."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl import __version__
from afictl.data.loader import read_files
from afictl.data.transforms import shortest_edge, to_float, view
from afictl.detectors import Detector, to_original
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation.category_matching import PLACEHOLDER
from afictl.evaluation.coco_writer import CocoWriter
from afictl.evaluation.inference import paste_in_original
from afictl.evaluation.prediction_writer import coco_results
from afictl.evaluation.tta import TestTimeAugmentation, detect_augmented
from afictl.presets import InputConfig
from afictl.progress import ProgressCallback
from afictl.weights import LoadedDetector

SOURCE = "pseudo"
_SMALLEST_SIDE = 0.01  # pixels; boxes are written with two decimals


@dataclass
class ClassCount:
    """What became of the detections of one class."""

    name: str
    category_id: int
    threshold: float
    seen: int = 0
    """Detections of any score that the detector answered with."""
    kept: int = 0
    images: int = 0
    """Images with at least one that was kept."""


@dataclass
class PseudoLabelReport:
    """What a run over the images did."""

    classes: dict[int, ClassCount]
    """By label; placeholders are no class."""
    images: int = 0
    """Images looked at."""
    labelled: int = 0
    """Those of them with at least one pseudo label."""
    unreadable: list[str] = field(default_factory=list)
    """One line for each file that was skipped."""
    examples: list[tuple[Path, list[dict[str, Any]]]] = field(default_factory=list)
    """A few of the labelled images, spread over all of them, with their annotations."""

    @property
    def kept(self) -> int:
        """Pseudo labels of all classes."""
        return sum(count.kept for count in self.classes.values())


class _Spread:
    """Up to ``count`` things of a stream of unknown length, evenly spread over it."""

    def __init__(self, count: int) -> None:
        self._count, self._stride, self._seen = count, 1, 0
        self._kept: list[Any] = []

    def add(self, thing: Any) -> None:
        """See the next one."""
        if self._seen % self._stride == 0:
            self._kept.append(thing)
        self._seen += 1
        if len(self._kept) > 2 * self._count:
            del self._kept[1::2]
            self._stride *= 2

    def chosen(self) -> list[Any]:
        """In the order of the stream."""
        count = min(self._count, len(self._kept))
        return [self._kept[k * len(self._kept) // count] for k in range(count)]


def class_thresholds(classes: Sequence[str], threshold: float, own: Mapping[str, float]) -> list[float]:
    """The score from which a detection of each class is kept.

    Raises:
        UserError: a threshold of a class that the detector does not have, or outside 0..1.
    """
    for name, value in own.items():
        if name not in classes:
            close = get_close_matches(name, classes, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(classes[:10])}"
            raise UserError(f"--class-threshold {name}={value:g}: the detector has no class '{name}'; {hint}")
        if not 0 <= value <= 1:
            raise UserError(f"--class-threshold {name}={value:g}: a score is between 0 and 1")
    return [own.get(name, threshold) for name in classes]


def write_pseudo_labels(
    teacher: LoadedDetector,
    files: Sequence[Path],
    folder: Path,
    output: Path,
    thresholds: Sequence[float],
    runtime: Runtime,
    *,
    info: Mapping[str, Any],
    tta: TestTimeAugmentation | None = None,
    examples: int = 8,
    progress: ProgressCallback | None = None,
) -> PseudoLabelReport:
    """Detect in ``files`` and write what reaches its class's threshold to ``output``; memory does not grow with them.

    The file is a COCO annotation file with the teacher's class names and category ids. Every image that could be read
    is in it, also one without a label. Annotations have ``bbox`` (xywh, pixels), ``area``, ``iscrowd`` 0, ``score``,
    ``"source": "pseudo"`` and, from a detector with masks, ``segmentation`` (compressed run lengths) and perhaps
    ``mask_score``. Its ``info`` says where the images are and what was not labelled. A file that cannot be read is
    skipped and counted.

    Args:
        teacher: on ``runtime.device``, in eval mode.
        files: images inside ``folder``.
        folder: where the names in the file start from.
        output: file to write; replaced at once at the end.
        thresholds: score of each label 1..K from which it is kept; see ``class_thresholds``.
        runtime: of one rank.
        info: further entries of ``info``.
        tta: detect at several scales; None sees each image as the preset says.
        examples: how many labelled images to report, evenly spread.
        progress: called with the number of images done and of all images.

    Raises:
        UserError: not one image could be read, or nothing reaches its threshold; nothing is written then.
    """
    report = PseudoLabelReport(_classes(teacher, thresholds))
    shown = _Spread(examples)
    views = read_files(files, partial(_view, None if tta else teacher.detector.input), runtime.workers)
    with CocoWriter(output) as writer, torch.no_grad():
        for k, (file, view) in enumerate(zip(files, views, strict=True)):
            if isinstance(view, UserError):
                report.unreadable.append(str(view))
            else:
                with runtime.autocast():
                    detection = _detect(teacher.detector, view, tta, runtime.device)
                kept = _select(detection, report)
                image = _image_record(report.images, file.relative_to(folder), view.size_hw)
                annotations = list(_annotations(teacher, kept, image, report))
                writer.add(image, annotations)
                if annotations:
                    shown.add((file, annotations))
            if progress is not None:
                progress(k + 1, len(files))
        report.examples = shown.chosen()
        _require_some(report, folder)
        categories = [{"id": count.category_id, "name": count.name} for count in report.classes.values()]
        places = {
            "image_folder": str(folder.resolve()),
            "image_folder_from_here": os.path.relpath(folder.resolve(), output.parent.resolve()),
        }
        origin = {"description": "pseudo labels", "afictl": __version__, "tta": asdict(tta) if tta else None}
        writer.finish(info={**origin, **info, **places, "unreadable": report.unreadable}, categories=categories)
    return report


class _View(NamedTuple):
    """An image at the size that the detector sees, for several scales at its own, uint8 (3,h,w); and its own size."""

    image: Tensor
    size_hw: tuple[int, int]


def _view(config: InputConfig | None, image: Tensor) -> _View:
    size_hw = (image.shape[1], image.shape[2])
    if config is None:
        return _View(image, size_hw)
    return _View(view(image, shortest_edge(size_hw, config.test_size, config.max_size), flip=False), size_hw)


def _classes(teacher: LoadedDetector, thresholds: Sequence[float]) -> dict[int, ClassCount]:
    each = zip(teacher.classes, _category_ids(teacher), thresholds, strict=True)
    return {
        label: ClassCount(name, number, threshold)
        for label, (name, number, threshold) in enumerate(each, start=1)
        if number is not None
    }


def _category_ids(teacher: LoadedDetector) -> list[int | None]:
    """The category id of each label, None for a placeholder; counted where the checkpoint has no ids of its own."""
    ids = teacher.metadata.get("category_ids")
    real = [name != PLACEHOLDER for name in teacher.classes]
    own = [number for number, use in zip(ids or [], real, strict=False) if use]
    if ids is None or len(ids) != len(real) or len(set(own)) < len(own):
        ids = range(1, len(real) + 1)
    return [number if use else None for number, use in zip(ids, real, strict=True)]


def _detect(
    detector: Detector, view: _View, tta: TestTimeAugmentation | None, device: torch.device
) -> dict[str, Tensor]:
    """The detection in original pixels."""
    image = view.image.to(device)
    if tta:
        return detect_augmented(detector, image, tta)
    (detection,) = detector.detect([to_float(image)])
    return to_original(detection, (image.shape[1], image.shape[2]), view.size_hw)


def _select(detection: dict[str, Tensor], report: PseudoLabelReport) -> dict[str, Tensor]:
    """What reaches the threshold of its class and has an area; counted in ``report``."""
    labels, boxes, scores = (detection[name] for name in ("labels", "boxes", "scores"))
    thresholds = scores.new_full((max([0, *report.classes]) + 1,), math.inf)
    for label, count in report.classes.items():
        thresholds[label] = count.threshold
    keep = (scores >= thresholds[labels]) & (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST_SIDE).all(dim=1)
    seen, kept = (Counter(each.tolist()) for each in (labels, labels[keep]))
    for label, count in report.classes.items():
        count.seen += seen[label]
        count.kept += kept[label]
        count.images += kept[label] > 0
    report.images += 1
    report.labelled += bool(kept)
    return {name: values[keep] for name, values in detection.items()}


def _image_record(image_id: int, name: Path, size_hw: tuple[int, int]) -> dict[str, Any]:
    return {"id": image_id, "file_name": name.as_posix(), "height": size_hw[0], "width": size_hw[1]}


def _annotations(
    teacher: LoadedDetector, kept: dict[str, Tensor], image: Mapping[str, Any], report: PseudoLabelReport
) -> Iterator[dict[str, Any]]:
    """COCO annotations of what was counted last; a mask without a single pixel is no mask."""
    size_hw = (image["height"], image["width"])
    masks = paste_in_original(teacher.detector, kept, size_hw) if "mask_probs" in kept else None
    results = coco_results(kept, masks, image["id"], _category_ids(teacher))
    for number, result in enumerate(results, start=report.kept - len(results) + 1):
        x, y, width, height = (round(value, 2) for value in result["bbox"])
        segmentation = result.pop("segmentation", None)
        area = float(coco_mask.area(segmentation)) if segmentation else 0.0
        record = {"id": number, **result, "bbox": [x, y, width, height], "score": round(result["score"], 6)}
        record |= {"area": area or round(width * height, 2), "iscrowd": 0, "source": SOURCE}
        yield {**record, "segmentation": segmentation} if area else record


def _require_some(report: PseudoLabelReport, folder: Path) -> None:
    if not report.images:
        raise UserError(f"{folder}: not one image could be read; the first: {report.unreadable[0]}")
    if not report.kept:
        seen = sum(count.seen for count in report.classes.values())
        hint = "lower --threshold" if seen else "the teacher finds nothing at all"
        raise UserError(f"{folder}: none of {seen} detections on {report.images} images reaches its threshold; {hint}")
