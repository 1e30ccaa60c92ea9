"""Dataset of overlapping tiles of the images of another, for small objects in large images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from afictl.data.dataset import Dataset
from afictl.data.folders import require_unused_folder
from afictl.data.formats.coco_records import Record
from afictl.data.formats.coco_writer import CocoWriter
from afictl.data.image_listing import require_images
from afictl.data.images import read_image
from afictl.data.layouts import find_layout
from afictl.data.segmentation_arrays import read_segmentations
from afictl.data.tile_objects import object_parts
from afictl.data.tiles import Tile, Tiling
from afictl.errors import UserError
from afictl.files import atomic_folder
from afictl.progress import ProgressCallback, ProgressDisplay, no_progress

_LOSSY_SUFFIXES = (".jpg", ".jpeg")


@dataclass
class SliceCounts:
    """Contents of a split of tiles."""

    images: int
    """Images that were cut."""
    tiles: int = 0
    empty_tiles: int = 0
    """Tiles without objects to train on that are left out of the train split."""
    objects: int = 0
    """Objects, with those of overlaps counted in each tile."""
    crowds: int = 0
    """Those among them that are flagged ``iscrowd``, in the source or because too little is visible."""


def slice_dataset(
    source: Path,
    out_dir: Path,
    tiling: Tiling,
    *,
    min_visible: float = 0.1,
    progress: ProgressDisplay = no_progress,
) -> dict[str, SliceCounts]:
    """Write all splits of a dataset as tiles in COCO's layout, completely or not at all.

    Boxes and masks are clipped to the tile. An object of which a smaller fraction than ``min_visible`` is inside is
    flagged ``iscrowd``: it is no target of training, and evaluation ignores it and the detections on it. Boxes without
    area inside their image are left out, and in the train split tiles without objects to train on, which training
    would leave out. Categories and their ids are kept; the record of a tile has ``source_file_name``,
    ``source_image_id`` and ``offset`` [x, y] in pixels. Tiles of JPEG files are JPEG of quality 95 without subsampling,
    others PNG. One image is in memory at a time.

    Args:
        source: dataset of any format.
        out_dir: must be absent or empty.
        tiling: size and overlap.
        min_visible: fraction in 0..1 of the mask, or of the box without one.
        progress: display of the images of each split.

    Raises:
        UserError: a dataset with a fault, a missing or unreadable image, an ``out_dir`` in use, ``min_visible`` out of
            range, or no tile to train on.
    """
    if not 0 <= min_visible <= 1:
        raise UserError(f"--min-visible must be between 0 and 1 (got {min_visible})")
    require_unused_folder(out_dir)
    layout = find_layout(source)
    counts = {}
    with atomic_folder(out_dir) as draft:
        (draft / "annotations").mkdir()
        for split in layout.complete_splits or ["train"]:
            dataset = layout.find(split).load()
            images = dataset.training_images() if split == "train" else range(len(dataset))
            require_images(dataset, images)
            writer = _SplitWriter(dataset, split, draft, tiling, min_visible)
            with progress(f"{split} images") as show:
                counts[split] = writer.write(images, show)
    return counts


@dataclass
class _SplitWriter:
    """Writer of the tiles of one split."""

    dataset: Dataset
    split: str
    folder: Path
    tiling: Tiling
    min_visible: float
    _stems: set[str] = field(default_factory=set)

    def write(self, images: Sequence[int], progress: ProgressCallback) -> SliceCounts:
        dataset, counts = self.dataset, SliceCounts(len(images))
        # the name of a list of test images is unchanged: it tells that there are no objects
        name = f"instances_{self.split}.json" if dataset.has_ground_truth else dataset.annotation_file.name
        file_names = dataset.file_names
        with CocoWriter(self.folder / "annotations" / name) as writer:
            for count, i in enumerate(images, start=1):
                self._write_image(i, file_names[i], writer, counts)
                progress(count, len(images))
            if not counts.tiles:
                raise UserError(f"{dataset.annotation_file}: no object to train on, so there is no tile to write")
            writer.finish(
                info={
                    "description": f"tiles of {dataset.annotation_file.name} by afictl data slice",
                    "size": self.tiling.size,
                    "overlap": self.tiling.overlap,
                    "min_visible": self.min_visible,
                },
                categories=[
                    {"id": k, "name": name} for k, name in zip(dataset.category_ids, dataset.classes, strict=True)
                ],
            )
        return counts

    def _write_image(self, i: int, file_name: str, writer: CocoWriter, counts: SliceCounts) -> None:
        path, size_hw = self.dataset.image_path(i), self.dataset.size_hw(i)
        tiles = self.tiling.tiles(size_hw)
        pixels = read_image(path, size_hw).permute(1, 2, 0).numpy()
        stem, suffix = self._place(i, path)
        for tile, records in zip(tiles, self._objects(i, tiles), strict=True):
            if self.split == "train" and not any(map(_is_target, records)):
                counts.empty_tiles += 1
                continue
            counts.tiles += 1
            image = {
                "id": counts.tiles,
                "file_name": f"{stem}_{tile.left}_{tile.top}{suffix}",
                "width": tile.right - tile.left,
                "height": tile.bottom - tile.top,
                "source_file_name": file_name,
                "source_image_id": self.dataset.image_id(i),
                "offset": [tile.left, tile.top],
            }
            first_id = counts.objects + 1
            writer.add(image, [{"id": k, "image_id": counts.tiles, **r} for k, r in enumerate(records, first_id)])
            counts.objects += len(records)
            counts.crowds += sum(record["iscrowd"] for record in records)
            _save(pixels, tile, self.folder / self.split / f"{image['file_name']}")

    def _objects(self, i: int, tiles: list[Tile]) -> list[list[Record]]:
        """The records of the objects in each tile, without ids."""
        arrays, size_hw = self.dataset.arrays, self.dataset.size_hw(i)
        start, end = arrays["object_ends"][i : i + 2].tolist()
        rows = list(range(start, end))
        records: list[list[Record]] = [[] for _ in tiles]
        for row, segmentation in zip(rows, read_segmentations(arrays, rows, size_hw), strict=True):
            xywh = arrays["xywh"][row].numpy()
            if not np.isfinite(xywh).all():
                continue
            crowd, ignore = bool(arrays["crowd"][row]), bool(arrays["ignore"][row])
            for part in object_parts(xywh, segmentation, size_hw, tiles):
                record: Record = {
                    "category_id": self.dataset.category_ids[int(arrays["labels"][row]) - 1],
                    "bbox": part.xywh,
                    "area": float(arrays["areas"][row]) * part.visible,
                    "iscrowd": int(crowd or part.visible < self.min_visible),
                    **({"ignore": 1} if ignore else {}),
                    **({"segmentation": part.segmentation} if part.segmentation else {}),
                }
                records[part.tile].append(record)
        return records

    def _place(self, i: int, path: Path) -> tuple[str, str]:
        """File name of the tiles of an image without offset, and its suffix."""
        name = PurePath(os.path.relpath(path, self.dataset.image_dir))
        if name.parts[0] == os.pardir:  # an absolute path below the target of a link
            name = PurePath(name.name)
        stem = name.with_suffix("").as_posix()
        while stem.casefold() in self._stems:
            stem = f"{stem}_{self.dataset.image_id(i)}"
        self._stems.add(stem.casefold())
        return stem, ".jpg" if name.suffix.lower() in _LOSSY_SUFFIXES else ".png"


def _save(pixels: np.ndarray, tile: Tile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels[tile.top : tile.bottom, tile.left : tile.right])
    if path.suffix == ".jpg":
        image.save(path, quality=95, subsampling=0)
    else:
        image.save(path)


def _is_target(record: Record) -> bool:
    return not record["iscrowd"] and "ignore" not in record
