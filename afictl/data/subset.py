"""Reproducible subset of a dataset's labels, with the other training images as an unlabelled folder."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

from afictl.data.folders import image_to_copy, require_unused_folder
from afictl.data.formats.coco_records import FIELDS, Contents, check_records, write_coco
from afictl.data.formats.split_files import SplitFiles
from afictl.data.layouts import find_layout
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
    """Write a dataset in COCO's layout that has the labels of only a part of the training images.

    ``OUT/train`` and ``OUT/annotations/instances_train.json`` hold that part, ``OUT/unlabeled`` the images of the
    rest; the other splits are complete. A hash of seed and file name selects the labelled images: the
    selection depends neither on their order in the file nor on a library's random numbers, and a smaller fraction is
    a subset of a larger one of the same seed. The folder is written completely or not at all.

    Args:
        data_dir: dataset of any format.
        out_dir: must be absent or empty.
        fraction: of the training images, above 0 and below 1; at least one image keeps its labels.
        seed: another seed selects other images.
        copy: copy the image files instead of linking to them.

    Raises:
        UserError: a split that cannot be read, a fraction out of range, an ``out_dir`` in use, or a missing image.
    """
    if not 0 < fraction < 1:
        raise UserError(f"--fraction {fraction}: choose a number between 0 and 1, such as 0.2")
    require_unused_folder(out_dir)
    with atomic_folder(out_dir) as draft:
        return _write(data_dir, draft, fraction, seed, copy)


def split_training_images(data_dir: Path, out_dir: Path, fraction: float) -> None:
    """Write a dataset in COCO's layout whose train and val splits are parts of the training images of another.

    A hash of the file names selects the images, as in ``write_subset``. Images are links. The folder is written
    completely or not at all, in place of a former one.

    Args:
        data_dir: dataset of any format.
        out_dir: folder to write.
        fraction: of the images that become the val split, above 0 and below 1.

    Raises:
        UserError: a train split that cannot be read, a missing image, or fewer than two images.
    """
    train = find_layout(data_dir).find("train")
    contents, names = _read_images(train, seed=0)
    if len(names) < 2:
        raise UserError(f"{train.annotation_file}: has {len(names)} image; two are needed to hold one out")
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    with atomic_folder(out_dir) as draft:
        (draft / "annotations").mkdir()
        for split, part in (("train", names[count:]), ("val", names[:count])):
            write_coco(draft / "annotations" / f"instances_{split}.json", _restrict(contents, set(part)))
            (draft / split).mkdir()
            _copy_or_link_files(train.image_dir, draft / split, part, copy=False)


def _read_images(files: SplitFiles, seed: int) -> tuple[Contents, list[str]]:
    """The records of a split, and its file names of images in the order of their hash."""
    contents = files.read_records()
    for key, fields in FIELDS.items():
        check_records(files.annotation_file, key, contents[key], fields)
    return contents, sorted({image["file_name"] for image in contents["images"]}, key=lambda name: _rank(seed, name))


def _restrict(contents: Contents, names: Container[str]) -> Contents:
    """The records of the images with these file names, and their objects."""
    images = [image for image in contents["images"] if image["file_name"] in names]
    ids = {image["id"] for image in images}
    objects = [record for record in contents["annotations"] if record["image_id"] in ids]
    return {**contents, "images": images, "annotations": objects}


def _write(data_dir: Path, out_dir: Path, fraction: float, seed: int, copy: bool) -> SubsetCounts:
    layout = find_layout(data_dir)
    train = layout.find("train")
    contents, names = _read_images(train, seed)
    if not names:
        raise UserError(f"{train.annotation_file}: 'images' is empty, so there is no image to select")
    selection = set(names[: max(1, round(fraction * len(names)))])
    selected = _restrict(contents, selection)
    (out_dir / "annotations").mkdir()
    write_coco(out_dir / "annotations" / "instances_train.json", selected)
    for folder, files in (("train", names[: len(selection)]), (UNLABELED, names[len(selection) :])):
        (out_dir / folder).mkdir()
        _copy_or_link_files(train.image_dir, out_dir / folder, files, copy)
    for split in layout.complete_splits:
        if split != "train":
            _copy_or_link_split(layout.find(split), out_dir, split, copy)
    counts = Counter(record["category_id"] for record in selected["annotations"])
    classes = sorted((category["id"], category["name"]) for category in contents["categories"])
    return SubsetCounts(len(selection), len(names) - len(selection), {name: counts[k] for k, name in classes})


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _copy_or_link_split(files: SplitFiles, out_dir: Path, split: str, copy: bool) -> None:
    """Copy or link a complete split."""
    # The name of a list of test images is unchanged: submissions use it.
    name = files.annotation_file.name
    files.write_records(
        out_dir / "annotations" / (name if name.startswith("image_info") else f"instances_{split}.json")
    )
    if files.annotation_file.is_relative_to(files.image_dir):  # a folder with annotations would be ambiguous
        (out_dir / split).mkdir()
        names = dict.fromkeys(image["file_name"] for image in files.read_records()["images"])
        _copy_or_link_files(files.image_dir, out_dir / split, names, copy)
    elif copy:
        shutil.copytree(files.image_dir, out_dir / split)
    else:
        (out_dir / split).symlink_to(files.image_dir.resolve())


def _copy_or_link_files(source: Path, target: Path, names: Iterable[str], copy: bool) -> None:
    for name in names:
        original, path = image_to_copy(source, name), target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(original, path)
        else:
            path.symlink_to(original.resolve())
