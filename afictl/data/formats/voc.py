"""Pascal VOC: an XML file of boxes for each image in ``Annotations``, and lists of images in ``ImageSets/Main``.

Corners are 1-based pixels that belong to the box, as the development kit defines them: 1 to W is the whole width.
Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import Element

from afictl.data.folders import IMAGE_SUFFIXES, SPLITS, leaves_folder
from afictl.data.formats.coco_records import Contents, Record
from afictl.data.formats.coco_values import CLASS_NAME, is_class_name, shorten
from afictl.data.formats.image_sizes import image_size, read_all
from afictl.data.formats.split_files import SPLIT_NAMES, Layout, SplitFiles
from afictl.data.formats.text_lines import read_lines
from afictl.errors import UserError, first_names
from afictl.xml_files import read_xml

ANNOTATIONS = "Annotations"
IMAGES = "JPEGImages"
LISTS = "ImageSets/Main"
_MAX_SIDE_PX = 2**31 - 1


@dataclass(frozen=True)
class VocFiles(SplitFiles):
    """The images of a list."""

    layout: VocLayout

    def read_records(self) -> Contents:
        """See ``SplitFiles``; ids follow the sorted names of the images, category ids the sorted class names."""
        names = listed_names(self.annotation_file)
        if not names:
            raise UserError(f"{self.annotation_file}: lists no image")
        roots = [self.layout.annotations[name] for name in names]
        records = read_all(lambda k: _image_record(self.layout.folder, names[k], roots[k]), range(len(names)))
        order = sorted(range(len(names)), key=lambda k: str(records[k]["file_name"]))
        category_ids = {name: k for k, name in enumerate(self.layout.classes, start=1)}
        images: list[Record] = []
        objects: list[Record] = []
        for k in order:
            images.append({"id": len(images) + 1, **records[k]})
            for record in _objects(roots[k], self.layout.annotation_file(names[k])):
                category = {"category_id": category_ids[record.pop("name")]}
                objects.append({"id": len(objects) + 1, "image_id": len(images), **category, **record})
        categories = [{"id": k, "name": name} for name, k in category_ids.items()]
        return {"images": images, "annotations": objects, "categories": categories}


@dataclass(frozen=True)
class VocLayout(Layout):
    """A folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``."""

    folder: Path

    @property
    def name(self) -> str:
        """See ``Layout``."""
        return "Pascal VOC"

    @property
    def splits(self) -> list[str]:
        """See ``Layout``."""
        return [split for split in SPLITS if self._lists(split)]

    def find(self, split: str) -> VocFiles:
        """See ``Layout``."""
        lists = self._lists(split)
        if len(lists) != 1:
            listing = first_names([file.name for file in lists or sorted((self.folder / LISTS).glob("*.txt"))])
            problem = f"{len(lists)} lists of" if lists else "no list of"
            raise UserError(f"{self.folder}: {problem} the split {split} in {LISTS}: it has {listing or 'no list'}")
        images = self.folder / IMAGES
        if not images.is_dir():
            raise UserError(f"{self.folder}: Pascal VOC without the image folder {IMAGES}")
        return VocFiles(lists[0], images, self)

    @cached_property
    def annotations(self) -> dict[str, Element]:
        """The annotation of each image of all lists."""
        names = list(
            dict.fromkeys(name for split in self.splits for name in listed_names(self.find(split).annotation_file))
        )
        return dict(zip(names, read_all(lambda name: read_xml(self.annotation_file(name)), names), strict=True))

    @cached_property
    def classes(self) -> list[str]:
        """The class names of all lists, sorted, as no file states them."""
        names = {
            record["name"]
            for name, root in self.annotations.items()
            for record in _objects(root, self.annotation_file(name))
        }
        return sorted(names)

    def annotation_file(self, name: str) -> Path:
        """The XML file of an image."""
        return self.folder / ANNOTATIONS / f"{name}.xml"

    def _lists(self, split: str) -> list[Path]:
        files = [self.folder / LISTS / f"{name}.txt" for name in SPLIT_NAMES[split]]
        return [file for file in files if file.is_file()]


def recognise_voc(folder: Path) -> VocLayout | None:
    """The layout if the folder has annotations and a list of any split."""
    layout = VocLayout(folder)
    return layout if (folder / ANNOTATIONS).is_dir() and layout.splits else None


def listed_names(file: Path) -> list[str]:
    """Names of the images of a list, without suffix, in its order.

    Raises:
        UserError: a name that is listed twice, or leads out of the folders of the dataset.
    """
    names: list[str] = []
    for line in read_lines(file):
        name = line.strip()
        if leaves_folder(file.parent, name) or name.startswith("/") or "\0" in name:
            raise UserError(f"{file}: '{name:.200}' is outside the dataset")
        if name:
            names.append(name)
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file}: '{repeated:.200}' is listed twice; list every image once")
    return names


def _image_record(folder: Path, name: str, root: Element) -> Record:
    """File name and size: the image of the annotation's own name, or the one that ``filename`` states."""
    images, file = folder / IMAGES, folder / ANNOTATIONS / f"{name}.xml"
    stated = (root.findtext("filename") or "").strip().replace("\\", "/")
    suffixes = [suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())]
    file_name = next((f"{name}{suffix}" for suffix in suffixes if (images / f"{name}{suffix}").is_file()), stated)
    if not file_name or leaves_folder(images, file_name) or file_name.startswith("/"):
        problem = f"filename '{stated:.200}' is outside {images}" if stated else f"no image of its name in {images}"
        raise UserError(f"{file}: {problem}")
    sides = [root.findtext(f"size/{key}") or "0" for key in ("height", "width")]
    if all(side.strip().isdecimal() and 0 < int(side[:12]) <= _MAX_SIDE_PX for side in sides):
        height, width = map(int, sides)
    else:
        height, width = image_size(images / file_name)
    return {"file_name": file_name, "height": height, "width": width}


def _objects(root: Element, file: Path) -> list[Record]:
    """The objects of an annotation as COCO records with the name of their class, and without ids.

    An object flagged ``difficult`` is flagged ``ignore``: training leaves it out.
    """
    records = []
    for k, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{file}: object {k}: 'name' is missing")
        if not is_class_name(name):
            raise UserError(f"{file}: object {k}: 'name' is {shorten(name)}, not {CLASS_NAME}")
        x_min, y_min, x_max, y_max = (_corner(element, key, f"{file}: object {k}") for key in _CORNERS)
        bbox = [float(v) for v in (x_min - 1, y_min - 1, x_max - x_min + 1, y_max - y_min + 1)]
        difficult = (element.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise UserError(f"{file}: object {k}: 'difficult' is '{difficult:.20}', not 0 or 1")
        records.append({"name": name, "bbox": bbox, "iscrowd": 0, "ignore": int(difficult)})
    return records


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _corner(element: Element, key: str, source: str) -> Decimal:
    """A coordinate as a decimal number, so that the offset of 1 pixel changes no digit."""
    text = element.findtext(f"bndbox/{key}")
    try:
        number = Decimal((text or "").strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or abs(number) > _MAX_SIDE_PX:
        value = f"'{text:.40}'" if text else "missing"
        raise UserError(f"{source}: 'bndbox/{key}' is {value}, not a number of pixels")
    return number
