"""One figure per image with the ground truth and the detections of several detectors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from afictl.data import Dataset
from afictl.progress import ProgressCallback
from afictl.visualization.detections import GROUND_TRUTH, detections_figure, reduce_to_drawing
from afictl.visualization.disagreement import DetectionArrays, count_missing, disagreement_score
from afictl.visualization.drawing import Detection
from afictl.visualization.figure import Figure
from afictl.visualization.figure_files import write_figures
from afictl.visualization.named_models import NamedDetectors
from afictl.visualization.pictures import Picture, dataset_pictures, require_readable
from afictl.weights import load_detector


def write_side_by_side(
    weights: Mapping[str, Path],
    dataset: Dataset,
    output: Path,
    *,
    limit: int = 8,
    threshold: float = 0.5,
) -> list[Path]:
    """Write ``output/NAME.png`` for the first images of a dataset, with detections on the CPU, and return the files.

    Args:
        weights: run folder or file of each detector, by the title of its panel.
        dataset: images and ground truth.
        output: folder, in which files of an earlier call are replaced.
        limit: maximum number of images.
        threshold: minimum score of a drawn detection.

    Raises:
        UserError: unreadable weights or images, or a detector with other classes than the dataset.
    """
    detectors = NamedDetectors.of({name: load_detector(path) for name, path in weights.items()}, dataset)
    pictures = dataset_pictures(dataset, limit)
    require_readable(pictures)
    figures = side_by_side_figures(detectors, pictures, threshold)
    return write_figures(figures, output, "detections")


def side_by_side_figures(detectors: NamedDetectors, pictures: Sequence[Picture], threshold: float) -> Iterator[Figure]:
    """Yield a figure of each image: ground truth, if known, and detections with a score of at least ``threshold``.

    With several detectors, detections without a partner in another one (see ``disagreement``) are marked.
    """
    method_labels = [
        [detectors.classes.index(name) + 1 for name in loaded.classes] for loaded in detectors.detectors.values()
    ]
    for picture in pictures:
        image = picture.read()
        small = reduce_to_drawing(image)
        drawn_hw = small.shape[1], small.shape[2]
        detections = {name: detectors.detect(name, image, threshold / 2, drawn_hw) for name in detectors.detectors}
        truth = picture.ground_truth(drawn_hw)
        panels: dict[str, Detection] = {} if truth is None else {GROUND_TRUTH: truth}
        panels |= mark_unshared(detections, threshold, method_labels)
        yield detections_figure(picture.name, small, panels, detectors.classes, picture.title)


def rank_pictures(
    detectors: NamedDetectors,
    pictures: Sequence[Picture],
    threshold: float,
    limit: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Picture]:
    """The pictures on which the detectors disagree, sorted by disagreement (see ``disagreement``), largest first.

    Names begin with the rank, titles contain the disagreement.
    """
    scores = []
    for count, picture in enumerate(pictures, start=1):
        image = picture.read()
        detections = [_to_arrays(detectors.detect(name, image, threshold / 2)) for name in detectors.detectors]
        scores.append(disagreement_score(detections, threshold))
        if progress is not None:
            progress(count, len(pictures))
    order = sorted((i for i, score in enumerate(scores) if score), key=lambda i: -scores[i])[:limit]
    digits = len(str(len(order)))
    return [
        replace(
            pictures[i],
            name=f"{rank:0{digits}}-{pictures[i].name}",
            title=f"{pictures[i].title}: {scores[i]:.3g} differing detections",
        )
        for rank, i in enumerate(order, start=1)
    ]


def mark_unshared(
    detections: Mapping[str, Mapping[str, Tensor]],
    threshold: float,
    method_labels: Sequence[Sequence[int]] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Select the detections with a score of at least ``threshold``, and mark those that another detector misses.

    Args:
        detections: detections of each detector in one image, with scores of at least half the threshold.
        threshold: minimum score of a drawn detection.
        method_labels: labels that each detector can predict, if these differ; a detector without a class misses none
            of its objects.

    Returns:
        The same with ``unshared`` (N,) bool if there are several detectors.
    """
    counts = count_missing([_to_arrays(detection) for detection in detections.values()], threshold, method_labels)
    result = {}
    for (name, detection), missing in zip(detections.items(), counts, strict=True):
        unshared = {"unshared": torch.from_numpy(missing > 0)} if len(detections) > 1 else {}
        above_threshold = detection["scores"] >= threshold
        result[name] = {key: values[above_threshold] for key, values in {**detection, **unshared}.items()}
    return result


def _to_arrays(detection: Mapping[str, Tensor]) -> DetectionArrays:
    return DetectionArrays(*(detection[key].numpy() for key in ("boxes", "labels", "scores")))
