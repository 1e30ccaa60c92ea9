"""A dataset as one HTML page: sizes of its objects beside the levels of a detector, classes, image sizes, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from afictl.data import Dataset
from afictl.data.layouts import find_layout
from afictl.data.transforms import resized_size
from afictl.errors import first_names
from afictl.presets import Preset
from afictl.progress import ProgressCallback
from afictl.visualization.detections import SheetPicture, reduce_to_drawing, sheet_figure
from afictl.visualization.drawing import Detection
from afictl.visualization.figure import Figure
from afictl.visualization.figure_files import data_url, write_page
from afictl.visualization.object_size_plot import plot_sizes
from afictl.visualization.object_sizes import ObjectSizes
from afictl.visualization.pictures import Picture

_COLUMNS = 3
_SHEET_PICTURES = 12
"""Pictures of one legend; no more are in memory at a time."""
_MAX_IMAGE_SIZES = 12
_RARE = 10
"""Classes of fewer objects are named."""


def write_dataset_page(
    source: Path,
    split: str,
    dataset: Dataset,
    path: Path,
    *,
    preset: Preset | None = None,
    number: int = 12,
    progress: ProgressCallback | None = None,
) -> None:
    """Write the page, self-contained and without names of folders. All names of the dataset are escaped.

    Args:
        source: folder or YAML file of the dataset, whose name is the title.
        split: name of the split.
        dataset: the split.
        path: file to write atomically.
        preset: detector whose resizing and levels the sizes are shown with.
        number: maximum number of pictures.
        progress: called with the number of pictures done and of all pictures.

    Raises:
        UserError: an image that is drawn cannot be read.
    """
    sizes = ObjectSizes(dataset, preset) if len(dataset.training_rows) else None
    content = {
        "sentences": [_contents(source, split, dataset), *_notes(dataset), *(sizes.sentences() if sizes else ())],
        "histogram": data_url(plot_sizes(sizes), "image/svg+xml") if sizes else "",
        "preset": preset.name if preset else "",
        "classes": _class_rows(dataset),
        "image_sizes": _image_size_rows(dataset, preset),
    }
    figures = _sheets(dataset, _sample(dataset, number), progress)
    title = f"{source.absolute().name}: {split}"
    write_page(figures, path, title, template="dataset.html", content=content, named_by_user=True)


def _contents(source: Path, split: str, dataset: Dataset) -> str:
    masks = "with masks" if dataset.has_masks else "without masks"
    return (
        f"{find_layout(source).name}, split {split}: {len(dataset):,} images, {len(dataset.training_rows):,} objects to"
        f" train on in {len(dataset.classes):,} classes, {masks}."
    )


def _notes(dataset: Dataset) -> Iterator[str]:
    """Sentences on objects that training leaves out and on classes with few objects."""
    left_out = dataset.left_out()
    if left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        yield f"Training leaves out: {reasons}. 'afictl data check' has the details."
    counts = _object_counts(dataset)
    absent = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    rare = [name for name, count in zip(dataset.classes, counts, strict=True) if 0 < count < _RARE]
    for names, fault in ((absent, "No object"), (rare, f"Fewer than {_RARE} objects")):
        if names:
            yield f"{fault} in this split: {len(names)} of {len(counts)} classes ({first_names(names)})."


def _object_counts(dataset: Dataset) -> list[int]:
    labels = dataset.arrays["labels"].numpy()[dataset.training_rows]
    return np.bincount(labels - 1, minlength=len(dataset.classes)).tolist()


def _class_rows(dataset: Dataset) -> list[tuple[str, int, int, float]]:
    """Name, objects, images, and objects divided by those of the largest class, most frequent first."""
    rows = dataset.training_rows
    labels = dataset.arrays["labels"].numpy()[rows]
    images = np.searchsorted(dataset.arrays["object_ends"].numpy(), rows, side="right") - 1
    pairs = np.unique(np.stack((labels, images)), axis=1)
    image_counts = np.bincount(pairs[0] - 1, minlength=len(dataset.classes)).tolist()
    counts = _object_counts(dataset)
    largest = max(1, *counts)
    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    return [(dataset.classes[k], counts[k], image_counts[k], counts[k] / largest) for k in order]


def _image_size_rows(dataset: Dataset, preset: Preset | None) -> list[tuple[str, str, int]]:
    """Width x height, the same after resizing for evaluation, and number of images, most frequent first."""
    counts = Counter((height, width) for height, width in dataset.sizes_hw.tolist()).most_common()
    rows = [(_format_size(size_hw), _resized(size_hw, preset), count) for size_hw, count in counts[:_MAX_IMAGE_SIZES]]
    remaining = counts[_MAX_IMAGE_SIZES:]
    return [*rows, (f"{len(remaining):,} other sizes", "", sum(count for _, count in remaining))] if remaining else rows


def _resized(size_hw: tuple[int, int], preset: Preset | None) -> str:
    return _format_size(resized_size(preset.input, size_hw, preset.input.test_size)) if preset else ""


def _format_size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]} x {size_hw[0]}"


def _sample(dataset: Dataset, number: int) -> list[int]:
    """Positions of ``number`` images, evenly spaced among those with objects to train on, or else among all."""
    images = dataset.training_images() or list(range(len(dataset)))
    count = min(number, len(images))
    return [images[k] for k in np.linspace(0, len(images) - 1, count).round().astype(int).tolist()]


def _sheets(dataset: Dataset, images: Sequence[int], progress: ProgressCallback | None) -> Iterator[Figure]:
    """Yield figures of ``_SHEET_PICTURES`` images with their ground truth."""
    names, count = dataset.file_names, 0
    for first in range(0, len(images), _SHEET_PICTURES):
        pictures: list[SheetPicture] = []
        for i in images[first : first + _SHEET_PICTURES]:
            pictures.append((Path(names[i]).name, *_draw(dataset, i)))
            count += 1
            if progress:
                progress(count, len(images))
        last = first + len(pictures)
        title = f"Pictures {first + 1} to {last}" if len(pictures) > 1 else f"Picture {last}"
        yield sheet_figure(f"pictures-{first + 1}", pictures, dataset.classes, title, _COLUMNS)


def _draw(dataset: Dataset, i: int) -> tuple[Tensor, Detection]:
    picture = Picture(str(i), dataset.image_path(i), dataset.size_hw(i), partial(dataset.objects, i))
    image = reduce_to_drawing(picture.read())
    return image, picture.ground_truth((image.shape[1], image.shape[2])) or {}
