"""One figure an image: the ground truth beside what each of several trained detectors finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from afictl.data import Dataset
from afictl.data.transforms import resize_image
from afictl.progress import ProgressCallback
from afictl.visualization.contenders import Contenders, load_contenders
from afictl.visualization.detections import GROUND_TRUTH, comparison, drawn_size
from afictl.visualization.disagreement import Found, disagreement, lacking
from afictl.visualization.figure import Figure
from afictl.visualization.output import write_figures
from afictl.visualization.pictures import Picture, data_pictures


def draw_comparisons(
    weights: Mapping[str, Path],
    source: Dataset | Sequence[Picture],
    output: Path,
    *,
    limit: int | None = 8,
    threshold: float = 0.5,
    device: torch.device | str = "cpu",
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Write ``output/NAME.png`` for each image and return the files.

    Args:
        weights: run folder or detector file by the name that stands above its detections.
        source: a data set, whose ground truth is drawn too, or the images of ``file_pictures``.
        output: folder; what an earlier call wrote there is replaced.
        limit: draw only the first images.
        threshold: score from which a detection is drawn.
        device: where to detect.
        progress: called with the number of images done and of all images.

    Raises:
        UserError: weights or an image that cannot be read, or a detector of other classes than the data set's.
    """
    pictures = data_pictures(source, limit) if isinstance(source, Dataset) else source[:limit]
    contenders = load_contenders(weights, source, device)
    figures = comparison_figures(contenders, pictures, threshold)
    return write_figures(figures, output, "detections", total=len(pictures), progress=progress)


def comparison_figures(contenders: Contenders, pictures: Sequence[Picture], threshold: float) -> Iterator[Figure]:
    """Ground truth, where known, and the detections from ``threshold`` on, image by image.

    Of several contenders, detections without a partner (see ``disagreement``) in one of the others are marked.
    """
    for picture in pictures:
        image = picture.read()
        size = drawn_size((image.shape[1], image.shape[2]))
        if size[0] < image.shape[1]:  # masks of a large photograph are drawn at the size that is shown
            small, drawn_hw = resize_image(image, size), size
        else:
            small, drawn_hw = image, (image.shape[1], image.shape[2])
        found = marked(
            {name: contenders.find(name, image, threshold / 2, drawn_hw) for name in contenders.detectors},
            threshold,
            [[contenders.classes.index(name) + 1 for name in each.classes] for each in contenders.detectors.values()],
        )
        truth = picture.ground_truth(drawn_hw)
        known = {} if truth is None else {GROUND_TRUTH: truth}
        yield comparison(picture.name, small, {**known, **found}, contenders.classes, picture.title)


def most_different(
    contenders: Contenders,
    pictures: Sequence[Picture],
    threshold: float,
    limit: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Picture]:
    """The pictures on which the contenders disagree, most first, named by their rank and titled with the measure.

    Of every image only its disagreement (see ``disagreement``) is kept.
    """
    scores = []
    for done, picture in enumerate(pictures, start=1):
        image = picture.read()
        found = [_found(contenders.find(name, image, threshold / 2)) for name in contenders.detectors]
        scores.append(disagreement(found, threshold))
        if progress is not None:
            progress(done, len(pictures))
    order = sorted((i for i, score in enumerate(scores) if score), key=lambda i: -scores[i])[:limit]
    digits = len(str(len(order)))
    return [
        replace(
            pictures[i],
            name=f"{rank:0{digits}}-{pictures[i].name}",
            title=f"{pictures[i].name}: {scores[i]:.3g} differing detections",
        )
        for rank, i in enumerate(order, start=1)
    ]


def marked(
    found: Mapping[str, Mapping[str, Tensor]], threshold: float, known: Sequence[Sequence[int]] | None = None
) -> dict[str, dict[str, Tensor]]:
    """The detections from ``threshold`` on of each contender, and which of them at least one other lacks.

    Args:
        found: what each finds in one image from half the threshold on (see ``disagreement``); as ``draw_detections``
            takes it.
        threshold: score from which a detection is drawn.
        known: the labels that each can give, where they are not the same: who does not know a class lacks nothing.

    Returns:
        The same with ``unshared`` (N,) bool where there are several contenders.
    """
    counts = lacking([_found(detection) for detection in found.values()], threshold, known)
    result = {}
    for (name, detection), missing in zip(found.items(), counts, strict=True):
        unshared = {"unshared": torch.from_numpy(missing > 0)} if len(found) > 1 else {}
        shown = detection["scores"] >= threshold
        result[name] = {key: values[shown] for key, values in {**detection, **unshared}.items()}
    return result


def _found(detection: Mapping[str, Tensor]) -> Found:
    return Found(*(detection[key].numpy() for key in ("boxes", "labels", "scores")))
