"""Images to draw: those of a dataset with their ground truth, or any files without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from afictl.data import Dataset, Objects, read_image
from afictl.data.images import UNREADABLE
from afictl.data.segmentation import draw_segmentation
from afictl.data.transforms import move_boxes
from afictl.data.unlabeled import image_files
from afictl.errors import UserError, one_line


@dataclass(frozen=True)
class Picture:
    """An image file, read when it is drawn."""

    name: str
    """Name of the drawing without suffix."""
    path: Path
    size_hw: tuple[int, int] | None = None
    """Annotated height and width, where there are annotations."""
    read_objects: Callable[[], Objects] | None = None
    """Reads the ground truth; None without one."""
    title: str = ""
    """Title above the panels."""

    def read(self) -> Tensor:
        """Read the image as uint8 (3,H,W) RGB."""
        return read_image(self.path, self.size_hw)

    def ground_truth(self, drawn_hw: tuple[int, int] | None = None) -> dict[str, Tensor] | None:
        """``boxes``, ``labels``, ``crowd`` and, if any object has a segmentation, ``masks`` (N,H,W) bool.

        Args:
            drawn_hw: height and width at which the image is drawn, in whose pixels boxes and masks are; default: those
                of the image.
        """
        if self.read_objects is None or self.size_hw is None:
            return None
        objects, drawn_hw = self.read_objects(), drawn_hw or self.size_hw
        boxes = move_boxes(objects.boxes, self.size_hw, drawn_hw)
        truth = {"boxes": boxes, "labels": objects.labels, "crowd": objects.crowd}
        if any(segmentation is not None for segmentation in objects.segmentations):
            masks = torch.zeros((len(objects.labels), *drawn_hw), dtype=torch.bool)
            for mask, segmentation in zip(masks, objects.segmentations, strict=True):
                if segmentation is not None:
                    mask.copy_(torch.from_numpy(draw_segmentation(segmentation, self.size_hw, drawn_hw)))
            truth["masks"] = masks
        return truth


def dataset_pictures(index: Dataset, limit: int | None = None) -> list[Picture]:
    """The first images of a dataset, named by image id, with ground truth where the dataset has it."""
    annotated = index.has_ground_truth
    return [
        Picture(str(image_id), index.image_path(i), index.size_hw(i), partial(index.objects, i) if annotated else None)
        for i, image_id in enumerate(index.image_ids[:limit])
    ]


def file_pictures(paths: Iterable[Path], limit: int | None = None) -> list[Picture]:
    """Image files, and those in folders and their subfolders, named by their stem (numbered where it is repeated).

    Raises:
        UserError: a path that does not exist, a folder without images, or a file without the header of an image.
    """
    files = [file for path in paths for file in _files(path)][:limit]
    for file in files:
        _require_image(file)
    names = unique_names([file.stem for file in files])
    return [Picture(name, file) for name, file in zip(names, files, strict=True)]


def results_to_detection(records: Sequence[Mapping[str, Any]], labels: Mapping[int, int]) -> dict[str, Tensor]:
    """COCO results of one image as a detection; ``labels`` maps category ids to labels.

    With ``masks`` where every record has a segmentation (compressed RLE).
    """
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float32).reshape(-1, 4)
    detection = {
        "boxes": torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1),
        "labels": torch.tensor([labels[record["category_id"]] for record in records], dtype=torch.int64),
        "scores": torch.tensor([record["score"] for record in records], dtype=torch.float32),
    }
    if records and all("segmentation" in record for record in records):
        masks = [coco_mask.decode(record["segmentation"]) for record in records]
        detection["masks"] = torch.from_numpy(np.stack(masks)).bool()
    return detection


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, repeated ones with ``-2``, ``-3``, ... appended."""
    unique: dict[str, None] = {}
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = f"{name}-{number}"
        unique[candidate] = None
    return list(unique)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return image_files(path)
    if not path.is_file():
        raise UserError(f"image {path} does not exist")
    return [path]


def _require_image(file: Path) -> None:
    """Read the header: a broken file of a thousand is an error before the first is drawn."""
    try:
        with Image.open(file):
            pass
    except UNREADABLE as error:
        raise UserError(f"image {file} cannot be read: {one_line(error)}") from None
