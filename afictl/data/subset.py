"""Reproducible subset of a dataset's labels, with the other training images as an unlabelled folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from afictl.data.folders import SPLITS, find_files, has_split, leaves_folder, portable_name
from afictl.data.formats.coco_records import FIELDS, Contents, check_records, read_instances
from afictl.errors import UserError
from afictl.files import atomic_folder

UNLABELED = "unlabeled"
"""Name of the folder of training images without labels."""


class SubsetCounts(NamedTuple):
    """Number of training images with and without labels, and of labelled objects of each class."""

    labelled: int
    unlabelled: int
    objects: dict[str, int]


def write_subset(data_dir: Path, out_dir: Path, fraction: float, seed: int = 0, *, copy: bool = False) -> SubsetCounts:
    """Write a dataset in COCO layout that has the labels of only a part of the training images.

    ``OUT/train`` and ``OUT/annotations/instances_train.json`` hold that part, ``OUT/unlabeled`` the images of the
    rest; the other splits are complete. A hash of seed and file name selects the labelled images: the
    selection depends neither on their order in the file nor on a library's random numbers, and a smaller fraction is
    a subset of a larger one of the same seed. The folder is written completely or not at all.

    Args:
        data_dir: dataset in COCO layout.
        out_dir: must be absent or empty.
        fraction: of the training images, above 0 and below 1; at least one image keeps its labels.
        seed: another seed selects other images.
        copy: copy the image files instead of linking to them.

    Raises:
        UserError: a split that cannot be read, a fraction out of range, an ``out_dir`` in use, or a missing image.
    """
    if not 0 < fraction < 1:
        raise UserError(f"--fraction {fraction}: choose a number between 0 and 1, such as 0.2")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir} is in use: choose another folder")
    with atomic_folder(out_dir) as draft:
        return _write(data_dir, draft, fraction, seed, copy)


def _write(data_dir: Path, out_dir: Path, fraction: float, seed: int, copy: bool) -> SubsetCounts:
    file, image_dir = find_files(data_dir, "train")
    contents = read_instances(file)
    for key, fields in FIELDS.items():
        check_records(file, key, contents[key], fields)
    names = sorted({image["file_name"] for image in contents["images"]}, key=lambda name: _rank(seed, name))
    if not names:
        raise UserError(f"{file}: 'images' is empty, so there is no image to select")
    selection = set(names[: max(1, round(fraction * len(names)))])
    images = [image for image in contents["images"] if image["file_name"] in selection]
    ids = {image["id"] for image in images}
    objects = [record for record in contents["annotations"] if record["image_id"] in ids]
    (out_dir / "annotations").mkdir()
    _write_annotations(out_dir, "train", {**contents, "images": images, "annotations": objects})
    for folder, files in (("train", names[: len(selection)]), (UNLABELED, names[len(selection) :])):
        (out_dir / folder).mkdir()
        _copy_or_link_files(image_dir, out_dir / folder, files, copy)
    for split in SPLITS[1:]:
        _copy_or_link_split(data_dir, out_dir, split, copy)
    counts = Counter(record["category_id"] for record in objects)
    classes = sorted((category["id"], category["name"]) for category in contents["categories"])
    return SubsetCounts(len(selection), len(names) - len(selection), {name: counts[k] for k, name in classes})


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _write_annotations(out_dir: Path, split: str, contents: Contents) -> None:
    file = out_dir / "annotations" / f"instances_{split}.json"
    try:
        text = json.dumps(contents)
    except RecursionError:
        raise UserError(f"{split} annotations: a value is nested too deep to be written again; remove it") from None
    file.write_text(text, encoding="utf-8")


def _copy_or_link_split(data_dir: Path, out_dir: Path, split: str, copy: bool) -> None:
    """Copy or link a complete split, if the dataset has it."""
    if not has_split(data_dir, split):
        return
    file, image_dir = find_files(data_dir, split)
    # The name of a list of test images is unchanged: ``find_files`` expects it, and submissions use it.
    name = f"instances_{split}.json" if file.name.startswith("instances_") else file.name
    shutil.copyfile(file, out_dir / "annotations" / name)
    if copy:
        shutil.copytree(image_dir, out_dir / split)
    else:
        (out_dir / split).symlink_to(image_dir.resolve())


def _copy_or_link_files(source: Path, target: Path, names: Iterable[str], copy: bool) -> None:
    for name in names:
        original, path = source / portable_name(source, name), target / name
        if os.path.isabs(name) or leaves_folder(source, portable_name(source, name)):
            raise UserError(f"image {name!r}: its file_name leaves the image folder {source}; correct the annotations")
        if not original.is_file():
            raise UserError(f"image {original} does not exist; 'afictl data check' lists every missing one")
        path.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(original, path)
        else:
            path.symlink_to(original.resolve())
