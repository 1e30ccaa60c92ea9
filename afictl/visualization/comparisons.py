"""One picture an image: the ground truth beside what each of several trained detectors finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from afictl.data import CocoIndex
from afictl.data.transforms import resize_for
from afictl.detectors import to_original
from afictl.evaluation.classes import match_categories
from afictl.visualization.detections import comparison_figure
from afictl.visualization.pictures import Picture, data_pictures, distinct
from afictl.weights import LoadedDetector, load_detector


def draw_comparisons(
    weights: Mapping[str, Path],
    source: CocoIndex | Sequence[Picture],
    output: Path,
    *,
    limit: int | None = 8,
    threshold: float = 0.5,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    load: Callable[[Path], LoadedDetector] = load_detector,
) -> list[Path]:
    """Write ``output/NAME.png`` for each image and return the files.

    Args:
        weights: run folder or detector file by the name that stands above its detections.
        source: a data set, whose ground truth is drawn too, or the images of ``file_pictures``.
        output: folder; files of the same names are replaced.
        limit: draw only the first images.
        threshold: score from which a detection is drawn.
        device: where to detect.
        progress: called with the number of images done and of all images.
        load: reads one of ``weights``.

    Raises:
        UserError: weights or an image that cannot be read, or a detector of other classes than the data set's.
    """
    names = source.classes if isinstance(source, CocoIndex) else ()
    pictures = data_pictures(source, limit) if isinstance(source, CocoIndex) else source[:limit]
    detectors = {name: load(path) for name, path in weights.items()}
    if isinstance(source, CocoIndex):
        for loaded in detectors.values():
            match_categories(loaded.classes, names, source.category_ids, source=str(source.annotation_file))
    classes = list(dict.fromkeys([*names, *(c for loaded in detectors.values() for c in loaded.classes)]))
    for loaded in detectors.values():
        loaded.detector.to(device)
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for done, picture in enumerate(pictures, start=1):
        image = picture.read()
        found = {name: _find(loaded, image, threshold, classes) for name, loaded in detectors.items()}
        files.append(output / f"{picture.name}.png")
        comparison_figure(image, picture.ground_truth(), found, classes).save(files[-1])
        if progress is not None:
            progress(done, len(pictures))
    return files


def run_names(weights: Sequence[Path]) -> list[str]:
    """A unique name for each run folder or file in one: the folder's, with as much around it as it takes."""
    folders = [(path if path.is_dir() else path.parent).resolve() for path in weights]
    names = [folder.name for folder in folders]
    if len(set(folders)) < len(folders):
        names = [
            path.resolve().name if path.is_dir() else f"{path.resolve().parent.name}/{path.stem}" for path in weights
        ]
    elif len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return distinct(names)


@torch.no_grad()
def _find(loaded: LoadedDetector, image: Tensor, threshold: float, classes: Sequence[str]) -> dict[str, Tensor]:
    """Detections from ``threshold`` on, in the pixels of ``image``, labelled by position in ``classes``.

    ``predict`` would paste the masks of all hundred detections first: gigabytes on a large photograph.
    """
    seen = resize_for(loaded.detector.input, image)
    (detection,) = loaded.detector.detect([seen])
    size = (image.shape[1], image.shape[2])
    moved = to_original(detection, (seen.shape[1], seen.shape[2]), size)
    found = {name: values[moved["scores"] >= threshold].cpu() for name, values in moved.items()}
    if "mask_probs" in found:
        found["masks"] = loaded.detector.paste_masks(found.pop("mask_probs"), found["boxes"], size)
    found["labels"] = torch.tensor(
        [classes.index(loaded.classes[label - 1]) + 1 for label in found["labels"].tolist()],
        dtype=torch.int64,
    )
    return found
