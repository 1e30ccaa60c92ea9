"""Images to draw, from a dataset with ground truth or from files, and COCO results as detections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from afictl.data import Dataset, Objects, read_image
from afictl.data.folders import image_files
from afictl.data.images import opened_image
from afictl.data.media_files import unique_names
from afictl.data.segmentation import Segmentation, draw_segmentation, normalize_segmentation
from afictl.data.transforms import move_boxes
from afictl.errors import UserError
from afictl.evaluation.prediction_writer import CocoResult

_THREADS = 8


@dataclass(frozen=True)
class Picture:
    """An image file, which is read on demand."""

    name: str
    """File name of the drawing without suffix."""
    path: Path
    size_hw: tuple[int, int] | None = None
    """Annotated height and width; None without annotations."""
    read_objects: Callable[[], Objects] | None = None
    """Reads the ground truth; None without annotations."""
    title: str = ""
    """Title above the panels: the file name of the image."""

    def read(self) -> Tensor:
        """Read the image as uint8 (3,H,W) RGB."""
        return read_image(self.path, self.size_hw)

    def ground_truth(self, drawn_hw: tuple[int, int] | None = None) -> dict[str, Tensor] | None:
        """``boxes``, ``labels``, ``crowd`` and, if any object has a segmentation, ``masks`` (N,H,W) bool.

        Args:
            drawn_hw: height and width of the drawing, to which boxes and masks are scaled; None: of the image.
        """
        if self.read_objects is None or self.size_hw is None:
            return None
        objects, drawn_hw = self.read_objects(), drawn_hw or self.size_hw
        boxes = move_boxes(objects.boxes, self.size_hw, drawn_hw)
        masks = _draw_masks(objects.segmentations, self.size_hw, drawn_hw)
        return {"boxes": boxes, "labels": objects.labels, "crowd": objects.crowd, **masks}


def dataset_pictures(dataset: Dataset, limit: int | None = None) -> list[Picture]:
    """The first ``limit`` images of a dataset, named by image id, with ground truth where the dataset has it."""
    names = dataset.file_names
    return [
        Picture(
            name=str(image_id),
            path=dataset.image_path(i),
            size_hw=dataset.size_hw(i),
            read_objects=partial(dataset.objects, i) if dataset.has_ground_truth else None,
            title=f"{names[i]} (image {image_id})",
        )
        for i, image_id in enumerate(dataset.image_ids[:limit])
    ]


def file_pictures(paths: Iterable[Path]) -> list[Picture]:
    """Image files, and those in folders and their subfolders, named by their stem (numbered where it is repeated).

    Raises:
        UserError: a path that does not exist, a folder without images, or a file without the header of an image.
    """
    files = [pair for path in paths for pair in _files(path)]
    for file, _ in files:
        _require_image(file)
    names = unique_names([file.stem for file, _ in files])
    return [Picture(name, file, title=title) for name, (file, title) in zip(names, files, strict=True)]


def require_readable(pictures: Sequence[Picture]) -> None:
    """Decode every image once, so that one that is damaged is an error before the first drawing is written.

    Raises:
        UserError: images cannot be read; names the first.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        errors = [error for error in pool.map(_read_error, pictures) if error]
    if errors:
        more = f" ({len(errors)} of {len(pictures)} images cannot be read)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}; no picture was written{more}")


def results_to_detection(
    results: Sequence[CocoResult], labels: Mapping[int, int], size_hw: tuple[int, int], drawn_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """COCO results of one image as a detection of ``draw_detections``.

    Args:
        results: COCO results; any of them may have a ``segmentation``.
        labels: label by category id.
        size_hw: height and width of the image in pixels.
        drawn_hw: those of the drawing, to which boxes and masks are scaled.
    """
    xywh = torch.tensor([result["bbox"] for result in results], dtype=torch.float32).reshape(-1, 4)
    xyxy = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1)
    segmentations = [normalize_segmentation(result.get("segmentation"), size_hw) for result in results]
    return {
        "boxes": move_boxes(xyxy, size_hw, drawn_hw),
        "labels": torch.tensor([labels[result["category_id"]] for result in results], dtype=torch.int64),
        "scores": torch.tensor([result["score"] for result in results], dtype=torch.float32),
        **_draw_masks(segmentations, size_hw, drawn_hw),
    }


def _draw_masks(
    segmentations: Sequence[Segmentation | None], size_hw: tuple[int, int], drawn_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """``masks`` (N,h,w) bool at ``drawn_hw``; an empty dict where no object has a segmentation."""
    if not any(segmentation is not None for segmentation in segmentations):
        return {}
    masks = torch.zeros((len(segmentations), *drawn_hw), dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if segmentation is not None:
            mask.copy_(torch.from_numpy(draw_segmentation(segmentation, size_hw, drawn_hw)))
    return {"masks": masks}


def _files(path: Path) -> list[tuple[Path, str]]:
    """Image files with their names in the folder that was given."""
    if path.is_dir():
        return [(file, str(file.relative_to(path))) for file in image_files(path)]
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder")
    return [(path, path.name)]


def _read_error(picture: Picture) -> str:
    try:
        picture.read()
    except UserError as error:
        return str(error)
    return ""


def _require_image(file: Path) -> None:
    """Read the header, so that a broken file is an error before the first image is drawn."""
    with opened_image(file):
        pass
