"""The record of one split, images and annotations, from which training samples and ground truth are derived."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from afictl.data.folders import leaves_folder, portable_name
from afictl.data.mask_geometry import MASK_FAULTS, mask_faults
from afictl.data.segmentation import Segmentation
from afictl.data.segmentation_arrays import read_segmentations
from afictl.errors import UserError

MIN_SIDE_PX = 0.01
"""A thinner box counts as without area; the box losses take the log of a side."""

DROP_REASONS = ("used", "flagged 'iscrowd'", "without area", "outside the image", "flagged 'ignore'")
"""Why training leaves an object out, by the value of ``drop_reasons``; 0: it does not."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image, in file order."""

    boxes: Tensor
    """(n,4) float32, xyxy in pixels of the original image, clipped to it."""
    labels: Tensor
    """(n,) int64, 1..K in the order of ``Dataset.classes``."""
    crowd: Tensor
    """(n,) bool."""
    areas: Tensor
    """(n,) float32, square pixels; the annotation's ``area``, or the box's where it has none."""
    ids: Tensor
    """(n,) int64, annotation ids."""
    segmentations: list[Segmentation | None]


@dataclass(frozen=True)
class Dataset:
    """Images and annotations of one split, with the values of the annotation file.

    ``arrays`` holds every number, so that worker processes share them; nothing else grows with the data. Of n images in
    file order: ``image_ids``, ``sizes_hw``, ``names`` with ``name_ends``, and ``object_ends``. Of m objects, by image
    and then in file order: ``ids``, ``labels``, ``xywh`` and ``areas`` (float64), ``crowd``, ``ignore``, and the arrays
    of ``segmentation_arrays``.
    """

    annotation_file: Path
    image_dir: Path
    classes: tuple[str, ...]
    """Category names sorted by category id; label k is ``classes[k - 1]``."""
    category_ids: tuple[int, ...]
    arrays: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.arrays["image_ids"])

    @property
    def image_ids(self) -> list[int]:
        """Image ids in file order."""
        return self.arrays["image_ids"].tolist()

    @property
    def sizes_hw(self) -> np.ndarray:
        """(n,2) int64, annotated height and width in pixels."""
        return self.arrays["sizes_hw"].numpy().copy()

    @property
    def has_ground_truth(self) -> bool:
        """Whether the file has annotations; COCO's lists of test images have none."""
        return not self.annotation_file.name.startswith("image_info")

    @cached_property
    def has_masks(self) -> bool:
        """Whether any object that training uses has a mask that it can use."""
        return bool(self._usable(masks=True).any())

    def in_label_order(self, classes: Sequence[str]) -> Dataset:
        """The same data for a detector of ``classes``, which include all of ``self.classes``.

        Those that are not in the data have no object, and the category id 0.
        """
        if tuple(classes) == self.classes:
            return self
        labels = torch.tensor([0, *(1 + list(classes).index(name) for name in self.classes)])
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        arrays = ChainMap({"labels": labels[self.arrays["labels"]]}, self.arrays)  # type: ignore[arg-type]
        return replace(
            self, classes=tuple(classes), category_ids=tuple(ids.get(name, 0) for name in classes), arrays=arrays
        )

    @property
    def nbytes(self) -> int:
        """The size of all arrays."""
        return sum(values.nbytes for values in self.arrays.values())

    def image_id(self, i: int) -> int:
        """The id of image ``i``."""
        return int(self.arrays["image_ids"][i])

    def size_hw(self, i: int) -> tuple[int, int]:
        """Annotated height and width of image ``i``."""
        height, width = self.arrays["sizes_hw"][i].tolist()
        return height, width

    @property
    def file_names(self) -> list[str]:
        """The file of each image, relative to ``image_dir``."""
        text, ends = self.arrays["names"].numpy().tobytes(), self.arrays["name_ends"].tolist()
        return [text[start:end].decode() for start, end in pairwise(ends)]

    def image_path(self, i: int) -> Path:
        """The file of image ``i``.

        Raises:
            UserError: its ``file_name`` is outside the image folder.
        """
        start, end = self.arrays["name_ends"][i : i + 2].tolist()
        name = portable_name(self.image_dir, self.arrays["names"][start:end].numpy().tobytes().decode())
        if leaves_folder(self.image_dir, name):
            raise UserError(
                f"{self.annotation_file}: image {self.image_id(i)}: file_name {name!r} is outside the image folder "
                f"{self.image_dir}; give it relative to that folder"
            )
        return self.image_dir / name

    def objects(self, i: int) -> Objects:
        """Every object of image ``i``, also those that training leaves out."""
        start, end = self.arrays["object_ends"][i : i + 2].tolist()
        return self._select(i, torch.arange(start, end))

    def training_objects(self, i: int, masks: bool = False) -> Objects:
        """The objects of image ``i`` that training uses; with ``masks``, those among them with a usable one."""
        start, end = self.arrays["object_ends"][i : i + 2].tolist()
        return self._select(i, start + self._usable(masks, start, end).nonzero().flatten())

    def training_images(self, masks: bool = False) -> list[int]:
        """Positions of the images that have at least one object that training uses."""
        total = torch.cat((torch.zeros(1, dtype=torch.int64), self._usable(masks).cumsum(0)))
        return total[self.arrays["object_ends"]].diff().nonzero().flatten().tolist()

    @property
    def training_rows(self) -> np.ndarray:
        """(k,) int64, positions among all objects of those that training uses, whether or not they have a mask."""
        return self._usable(masks=False).nonzero().flatten().numpy()

    def left_out(self, masks: bool = False) -> dict[str, int]:
        """Number of objects, and images, that training leaves out, by reason; only reasons that occur."""
        dropped = self._drop_reasons
        counts = {f"objects {reason}": int((dropped == k).sum()) for k, reason in enumerate(DROP_REASONS) if k > 0}
        if masks:
            faults = self._mask_faults[dropped == 0]
            counts["objects without a mask"] = int((faults == 1).sum())
            for k in range(2, len(MASK_FAULTS)):
                counts[f"objects with a mask {MASK_FAULTS[k]}"] = int((faults == k).sum())
        counts["images without a usable object"] = len(self) - len(self.training_images(masks))
        return {reason: count for reason, count in counts.items() if count}

    @property
    def object_sizes_hw(self) -> np.ndarray:
        """(m,2) int64, size of the image of each object."""
        return self.arrays["sizes_hw"].repeat_interleave(self.arrays["object_ends"].diff(), dim=0).numpy()

    @cached_property
    def _mask_faults(self) -> Tensor:
        """Positions in ``MASK_FAULTS`` of all objects, one byte each, which is pickled with the dataset."""
        return torch.from_numpy(mask_faults(self.arrays, self.object_sizes_hw))

    @cached_property
    def _drop_reasons(self) -> Tensor:
        """``drop_reasons`` of all objects, one byte each, which is pickled with the dataset."""
        xywh, crowd, ignore = (self.arrays[name].numpy() for name in ("xywh", "crowd", "ignore"))
        return torch.from_numpy(drop_reasons(xywh, clip_boxes(xywh, self.object_sizes_hw), crowd, ignore))

    def _usable(self, masks: bool, start: int = 0, end: int | None = None) -> Tensor:
        usable = self._drop_reasons[start:end] == 0
        return usable & (self._mask_faults[start:end] == 0) if masks else usable

    def _select(self, i: int, rows: Tensor) -> Objects:
        xywh, labels, crowd, areas, ids = (self.arrays[k][rows] for k in ("xywh", "labels", "crowd", "areas", "ids"))
        boxes = torch.from_numpy(clip_boxes(xywh.numpy(), self.arrays["sizes_hw"][i : i + 1].numpy()))
        outlines = read_segmentations(self.arrays, rows.tolist(), self.size_hw(i), np.float32)
        return Objects(boxes, labels, crowd, areas.float(), ids, outlines)


def clip_boxes(xywh: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
    """Boxes (n,4) as float32 xyxy inside images of ``sizes_hw`` (n,2), or all inside one of (1,2)."""
    limits = sizes_hw[:, ::-1].astype(np.float64)
    corners = (xywh[:, :2], xywh[:, :2] + xywh[:, 2:])
    return np.concatenate([np.clip(corner, 0, limits) for corner in corners], axis=1).astype(np.float32)


def drop_reasons(xywh: np.ndarray, clipped: np.ndarray, crowd: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """Why training leaves each object out, uint8 (n,): a position in ``DROP_REASONS``."""
    has_area = (xywh[:, 2:] >= MIN_SIDE_PX).all(axis=1) & np.isfinite(xywh).all(axis=1)
    inside = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE_PX).all(axis=1)
    conditions = {1: crowd, 4: ignore, 2: ~has_area, 3: ~inside}
    return np.select(list(conditions.values()), list(map(np.uint8, conditions)), default=np.uint8(0))
