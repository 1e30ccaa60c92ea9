"""COCO annotation files as data sets."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

import numpy as np
import torch

from afictl.data.dataset import Dataset, clip_boxes, fates
from afictl.data.folders import find_files
from afictl.data.formats.coco_records import Annotations, read_annotations
from afictl.data.index_cache import cached
from afictl.data.index_file import IndexContents
from afictl.data.segmentation_arrays import segmentation_arrays


def load_coco(data_dir: str | Path, split: str) -> Dataset:
    """Index one split of a data set in COCO layout, with or without the year in its folder names.

    Args:
        data_dir: the folder that holds ``annotations/`` and the image folders.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        UserError: a file, folder or key is missing, not JSON, an unknown or duplicate id; names file, key
            and id.
    """
    return load_coco_file(*find_files(Path(data_dir), split))


def load_coco_file(annotation_file: Path, image_dir: Path) -> Dataset:
    """Index one annotation file, whose file names start from ``image_dir``.

    Raises:
        UserError: see ``load_coco``.
    """
    return Dataset(annotation_file, image_dir, *cached(annotation_file, partial(_read, annotation_file)))


def _read(file: Path) -> IndexContents:
    collects = gc.isenabled()
    gc.disable()  # it would walk the millions of lists of a file again and again, and none of them is garbage
    try:
        return _contents(read_annotations(file))
    finally:
        if collects:
            gc.enable()


def _contents(annotations: Annotations) -> IndexContents:
    order = np.argsort(annotations.image_index, kind="stable")
    image_index = annotations.image_index[order]
    sizes = annotations.sizes_hw[image_index]
    crowd = annotations.crowd[order]
    boxes = clip_boxes(annotations.xywh[order], sizes)
    names = [name.encode() for name in annotations.file_names]
    arrays = {
        "image_ids": annotations.image_ids,
        "sizes_hw": annotations.sizes_hw,
        "names": np.frombuffer(b"".join(names), dtype=np.uint8).copy(),
        "name_ends": np.cumsum([0, *map(len, names)]),
        "object_ends": np.searchsorted(image_index, np.arange(len(names) + 1)),
        "boxes": boxes,
        "labels": annotations.labels[order],
        "crowd": crowd,
        "areas": annotations.areas[order].astype(np.float32),
        "ids": annotations.ids[order],
        "fate": fates(annotations.xywh[order], boxes, crowd),
    }
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    segmentations = segmentation_arrays([annotations.segmentations[k] for k in order.tolist()], sizes)
    return IndexContents(annotations.classes, annotations.category_ids, tensors | segmentations)
