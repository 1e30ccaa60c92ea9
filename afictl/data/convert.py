"""Conversion of a dataset of any supported format to COCO, YOLO or Pascal VOC."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from afictl.data.folders import IMAGE_SUFFIXES, image_to_copy, require_unused_folder
from afictl.data.formats.coco_records import FIELDS, Contents, check_records, write_coco
from afictl.data.formats.split_files import SplitFiles
from afictl.data.formats.voc import IMAGES
from afictl.data.formats.voc_writer import write_voc
from afictl.data.formats.yolo_writer import write_yolo
from afictl.data.layouts import find_layout
from afictl.errors import UserError, did_you_mean
from afictl.files import atomic_folder


class Conversion(NamedTuple):
    """Number of images by split, how many of their files are linked, and changed or omitted objects by reason."""

    images: dict[str, int]
    linked: int
    copied: int
    changes: Counter[str]


def convert_dataset(source: Path, out_dir: Path, form: str, *, copy: bool = False) -> Conversion:
    """Write all splits of a dataset in another format, completely or not at all.

    Images keep their names; their files are hard-linked, or copied where that is impossible. Boxes and polygons have
    the same values up to the rounding of float64; ``changes`` counts what the new format has no form for.

    Args:
        source: dataset of any format.
        out_dir: must be absent or empty.
        form: ``"coco"``, ``"yolo"`` or ``"voc"``.
        copy: copy the image files instead of linking to them.

    Raises:
        UserError: a dataset with a fault, an unknown format, an ``out_dir`` in use, or names that the format cannot
            keep apart.
    """
    if form not in FORMATS:
        raise UserError(f"--to {form}: unknown format{did_you_mean(form, list(FORMATS))}")
    require_unused_folder(out_dir)
    layout = find_layout(source)
    files = {split: layout.find(split) for split in layout.complete_splits or ["train"]}
    splits = {split: _valid_records(item) for split, item in files.items()}
    with atomic_folder(out_dir) as draft:
        places = _places(splits, form)
        linked = Counter(
            _link_or_copy(image_to_copy(files[split].image_dir, name), draft / place, copy)
            for split, names in places.items()
            for name, place in names.items()
        )
        changes = FORMATS[form](draft, splits, places)
    counts = {split: len(contents["images"]) for split, contents in splits.items()}
    return Conversion(counts, linked[True], linked[False], +changes)


def _write_coco(folder: Path, splits: Mapping[str, Contents], places: Mapping[str, Mapping[str, str]]) -> Counter[str]:
    """Write the annotation files; areas that are absent, which other programs need, are those of the boxes."""
    (folder / "annotations").mkdir()
    for split, contents in splits.items():
        objects = [
            {"iscrowd": 0, "area": record["bbox"][2] * record["bbox"][3], **record}
            for record in contents["annotations"]
        ]
        images = [{**r, "file_name": places[split][r["file_name"]].partition("/")[2]} for r in contents["images"]]
        contents = {**contents, "images": images, "annotations": objects}
        write_coco(folder / "annotations" / f"instances_{split}.json", contents)
    return Counter()


FORMATS: dict[str, Callable[[Path, Mapping[str, Contents], Mapping[str, Mapping[str, str]]], Counter[str]]] = {
    "coco": _write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
}


def _valid_records(files: SplitFiles) -> Contents:
    contents, source = files.read_records(), files.annotation_file
    for key, fields in FIELDS.items():
        check_records(source, key, contents[key], fields)
    for key, ids in (("image_id", contents["images"]), ("category_id", contents["categories"])):
        identifiers = {record["id"] for record in ids}
        for record in contents["annotations"]:
            if record[key] not in identifiers:
                raise UserError(f"{source}: annotation {record['id']}: {key} {record[key]} does not exist")
    for record in contents["annotations"]:
        if not np.isfinite(np.array(record["bbox"], dtype=np.float64)).all():
            raise UserError(f"{source}: annotation {record['id']}: bbox {record['bbox']} is not finite")
    return contents


def _places(splits: Mapping[str, Contents], form: str) -> dict[str, dict[str, str]]:
    """Path of each image in the new dataset, by split and file name.

    Raises:
        UserError: YOLO and VOC have one file of labels for images that differ in their suffix alone, or for several
            records of an image.
    """
    names = {s: [r["file_name"] for r in contents["images"]] for s, contents in splits.items()}
    keys = {split: [str(PurePosixPath(_slashes(name)).with_suffix("")) for name in names[split]] for split in names}
    if form != "coco":
        for name in chain.from_iterable(names.values()):
            if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
                raise UserError(f"image {name!r}: its name does not end in {', '.join(IMAGE_SUFFIXES)}")
        for split, values in keys.items():
            if repeated := next((key for key, count in Counter(values).items() if count > 1), None):
                raise UserError(f"split {split}: {form} has one label file for both images called '{repeated}'")
    folders = {split: {"coco": split, "yolo": f"images/{split}"}.get(form, IMAGES) for split in names}
    if form == "voc" and len({key for values in keys.values() for key in values}) < sum(map(len, keys.values())):
        folders = {split: f"{IMAGES}/{split}" for split in names}
    return {split: {name: f"{folders[split]}/{_slashes(name)}" for name in names[split]} for split in names}


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _link_or_copy(original: Path, path: Path, copy: bool) -> bool:
    """Hard-link a file, or copy it where that is impossible; whether it is linked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            os.link(original.resolve(), path)
        except OSError:  # another disk, or a file system without links
            pass
        else:
            return True
    shutil.copyfile(original, path)
    return False
