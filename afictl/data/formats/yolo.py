"""YOLO datasets: ``data.yaml`` with class names and the images of each split, and a text file of labels an image.

A line is ``CLASS X Y WIDTH HEIGHT`` with the centre of the box, or ``CLASS X1 Y1 X2 Y2 X3 Y3 ...`` with a polygon, all
in fractions of the image. Labels are in the folder ``labels`` where the path of the image has ``images``, or beside the
image. Format: https://docs.ultralytics.com/datasets/detect and /datasets/segment.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from afictl.data.folders import SPLITS, image_files, leaves_folder
from afictl.data.formats.coco_records import Contents, Record
from afictl.data.formats.coco_values import CLASS_NAME, is_class_name, shorten
from afictl.data.formats.image_sizes import image_size, read_all
from afictl.data.formats.split_files import Layout, SplitFiles
from afictl.data.formats.text_lines import read_lines
from afictl.errors import UserError

_MAX_FRACTION = 1.5
"""A larger coordinate is one in pixels; boxes may reach over the border a little."""


@dataclass(frozen=True)
class YoloFiles(SplitFiles):
    """Images of a split, each with its label file."""

    root: Path
    """Folder of the dataset; label files are searched for below it."""
    entries: tuple[Path, ...]
    """Folders of images, or text files that list them."""
    classes: tuple[str, ...]

    def read_records(self) -> Contents:
        """See ``SplitFiles``; category ids are the class numbers, other ids follow the sorted names of the images."""
        paths = sorted({path for entry in self.entries for path in self._images(entry)})
        names = [path.relative_to(self.image_dir).as_posix() for path in paths]
        order = np.argsort(np.array(names, dtype=object), kind="stable").tolist()
        labels = {k: label_file(self.root, paths[k]) for k in order}
        if not any(labels.values()):
            raise UserError(f"{self.annotation_file}: none of its {len(paths)} images has a label file (.txt)")
        read = read_all(lambda k: self._read_image(paths[k], labels[k]), order)
        images: list[Record] = []
        objects: list[Record] = []
        for k, ((height, width), records) in zip(order, read, strict=True):
            images.append({"id": len(images) + 1, "file_name": names[k], "height": height, "width": width})
            objects += [{"id": len(objects) + i, "image_id": len(images), **r} for i, r in enumerate(records, start=1)]
        categories = [{"id": k, "name": name} for k, name in enumerate(self.classes)]
        return {"images": images, "annotations": objects, "categories": categories}

    def _images(self, entry: Path) -> list[Path]:
        if entry.is_dir():
            return image_files(entry)
        lines = [line for line in read_lines(entry) if line.strip()]
        return [path_inside(self.root, line.strip(), f"{entry}: line {k}") for k, line in enumerate(lines, start=1)]

    def _read_image(self, path: Path, labels: Path | None) -> tuple[tuple[int, int], list[Record]]:
        height, width = image_size(path)
        return (height, width), read_labels(labels, (height, width), len(self.classes)) if labels else []


@dataclass(frozen=True)
class YoloLayout(Layout):
    """A ``data.yaml``."""

    file: Path
    root: Path
    entries: Mapping[str, tuple[str, ...]]
    """Folders and lists of images of each split, as written."""
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """See ``Layout``."""
        return f"YOLO ({self.file.name})"

    @property
    def splits(self) -> list[str]:
        """See ``Layout``."""
        return [split for split in SPLITS if self.entries.get(split)]

    def find(self, split: str) -> YoloFiles:
        """See ``Layout``."""
        if not self.entries.get(split):
            raise UserError(f"{self.file}: key '{split}' is missing; it has {', '.join(self.splits) or 'no split'}")
        entries = tuple(path_inside(self.root, text, f"{self.file}: {split}") for text in self.entries[split])
        for path in entries:
            if not path.exists():
                raise UserError(f"{self.file}: {split}: {path} does not exist")
        first = entries[0]
        if len(entries) > 1 or not first.is_dir():
            return YoloFiles(first, self.root, self.root, entries, self.classes)
        labels = label_folder(self.root, first)
        return YoloFiles(labels if labels and labels.is_dir() else first, first, self.root, entries, self.classes)


def is_yolo(contents: object) -> bool:
    """Whether the contents of a YAML file have the keys of a YOLO dataset."""
    return isinstance(contents, dict) and "names" in contents and any(_is_entry(contents.get(key)) for key in SPLITS)


def yolo_layout(file: Path, contents: Mapping[str, object]) -> YoloLayout:
    """The dataset of a ``data.yaml``.

    ``path``, the folder of the dataset on the machine of its author, is used where it lies in the folder of the file.

    Raises:
        UserError: ``names`` is no list of different names, or the labels are key points.
    """
    if "kpt_shape" in contents:
        raise UserError(f"{file}: key 'kpt_shape': its labels are key points, which are not read")
    entries = {
        key: tuple(value) if isinstance(value, list) else (str(value),)
        for key in SPLITS
        if _is_entry(value := contents.get(key))
    }
    path = contents.get("path")
    root = Path(os.path.normpath(file.parent))
    if isinstance(path, str) and not leaves_folder(root, path) and (root / path).is_dir():
        root = path_inside(root, path, str(file))
    return YoloLayout(file, root, entries, _class_names(file, contents["names"], contents.get("nc")))


def label_file(root: Path, image: Path) -> Path | None:
    """The label file of an image, in ``labels`` or beside it; None for an image without objects.

    Raises:
        UserError: there are two.
    """
    folder = label_folder(root, image.parent)
    candidates = [parent / f"{image.stem}.txt" for parent in (folder, image.parent) if parent]
    files = [file for file in dict.fromkeys(candidates) if file.is_file()]
    if len(files) > 1:
        raise UserError(f"image {image} has two label files: {files[0]} and {files[1]}; remove one")
    return files[0] if files else None


def read_labels(file: Path, size_hw: tuple[int, int], num_classes: int) -> list[Record]:
    """The objects of a label file as COCO records without ids.

    Raises:
        UserError: a line that is no label; names file and line.
    """
    lines = ((k, line.split()) for k, line in enumerate(read_lines(file), start=1))
    return [_object(words, size_hw, num_classes, f"{file}: line {k}") for k, words in lines if words]


def path_inside(root: Path, text: str, source: str) -> Path:
    """The path of an entry relative to ``root``; of one that climbs, as in Roboflow's exports, the part in ``root``.

    Raises:
        UserError: it lies outside; names ``source``.
    """
    name = text.replace("\\", "/") if os.sep == "/" else text
    if leaves_folder(root, name):
        below = re.sub(r"^(\.\./)+", "", name)
        if os.path.isabs(name) or leaves_folder(root, below) or not (root / below).exists():
            raise UserError(
                f"{source}: '{text:.200}' is outside {root}, of which alone files are read; correct the path, or link "
                "the folder into it"
            )
        name = below
    if os.path.isabs(name):
        base = next(base for base in map(str, (root.absolute(), root.resolve())) if name.startswith(base))
        name = name[len(base) :].lstrip(os.sep)
    return Path(os.path.normpath(root / name))


def _is_entry(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) and item for item in value)
    return isinstance(value, str) and value != ""


def _class_names(file: Path, names: object, count: object) -> tuple[str, ...]:
    if isinstance(names, dict):
        if set(names) != set(map(str, range(len(names)))):
            raise UserError(f"{file}: key 'names': the class numbers must be 0 to {len(names) - 1} without gaps")
        names = [names[str(k)] for k in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: key 'names' must list the class names")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise UserError(f"{file}: key 'names': {name!r:.60} is no text; write it in quotes")
        if not is_class_name(str(name)):
            raise UserError(f"{file}: key 'names': {shorten(name)} is not {CLASS_NAME}")
    classes = tuple(map(str, names))
    if repeated := next((name for name in classes if classes.count(name) > 1), None):
        raise UserError(f"{file}: key 'names': '{repeated:.60}' occurs twice; give every class its own name")
    if isinstance(count, int) and count != len(classes):
        raise UserError(f"{file}: key 'nc' is {count}, but 'names' has {len(classes)} names")
    return classes


def label_folder(root: Path, folder: Path) -> Path | None:
    """Folder of label files: ``folder`` with ``labels`` for the last ``images`` below ``root``; None without one."""
    parts = list(folder.relative_to(root).parts)
    if "images" not in parts:
        return None
    k = len(parts) - 1 - parts[::-1].index("images")
    return root.joinpath(*parts[:k], "labels", *parts[k + 1 :])


def _object(words: Sequence[str], size_hw: tuple[int, int], num_classes: int, source: str) -> Record:
    try:
        label, *numbers = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{source}: '{' '.join(words):.60}' is not made of numbers") from None
    if not label.is_integer() or not 0 <= label < num_classes:
        raise UserError(f"{source}: class {words[0]:.20} does not exist; 'names' has 0 to {num_classes - 1}")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise UserError(
            f"{source}: {len(numbers)} numbers after the class; a box has x y width height, a polygon three or more x y"
        )
    if not all(math.isfinite(number) and abs(number) <= _MAX_FRACTION for number in numbers):
        raise UserError(f"{source}: coordinates must be fractions of the image, 0 to 1")
    height, width = size_hw
    record: Record = {"category_id": int(label), "iscrowd": 0}
    if len(numbers) == 4:
        x, y, w, h = numbers
        return {**record, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    points = np.array(numbers).reshape(-1, 2) * (width, height)
    x, y = points.min(axis=0).tolist()
    w, h = np.ptp(points, axis=0).tolist()
    following = np.roll(points, -1, axis=0)
    area = abs(float((points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum())) / 2
    return {**record, "bbox": [x, y, w, h], "area": area, "segmentation": [points.flatten().tolist()]}
