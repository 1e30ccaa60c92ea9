"""Writing of Pascal VOC datasets; see ``formats.voc`` for the format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from afictl.data.formats.coco_records import Contents, Record
from afictl.data.formats.coco_values import parse_flag
from afictl.data.formats.voc import ANNOTATIONS, IMAGES, LISTS
from afictl.errors import UserError


def write_voc(folder: Path, splits: Mapping[str, Contents], places: Mapping[str, Mapping[str, str]]) -> Counter[str]:
    """Write the annotations and the lists of all splits; arguments and result as of ``write_yolo``."""
    changes: Counter[str] = Counter()
    for split, contents in splits.items():
        names = {category["id"]: _xml_text(category["name"]) for category in contents["categories"]}
        objects: dict[int, list[Record]] = {image["id"]: [] for image in contents["images"]}
        for record in contents["annotations"]:
            if parse_flag(record.get("iscrowd")):
                changes["objects flagged 'iscrowd' are left out"] += 1
                continue
            changes["masks are left out, as VOC's XML has boxes alone"] += bool(record.get("segmentation"))
            objects[record["image_id"]].append({**record, "name": names[record["category_id"]]})
        listed = []
        for image in contents["images"]:
            path = PurePosixPath(places[split][image["file_name"]]).relative_to(IMAGES)
            listed.append(path.with_suffix("").as_posix())
            file = folder / ANNOTATIONS / f"{listed[-1]}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_annotation(file, _xml_text(path.as_posix()), image, objects[image["id"]])
        file = folder / LISTS / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    return changes


def _write_annotation(file: Path, file_name: str, image: Record, objects: Sequence[Record]) -> None:
    root = ElementTree.Element("annotation")
    _add(root, {"folder": IMAGES, "filename": file_name})
    _add(
        ElementTree.SubElement(root, "size"), {"width": int(image["width"]), "height": int(image["height"]), "depth": 3}
    )
    _add(root, {"segmented": 0})
    for record in objects:
        element = ElementTree.SubElement(root, "object")
        difficult = int(bool(parse_flag(record.get("ignore"))))
        _add(element, {"name": record["name"], "pose": "Unspecified", "truncated": 0, "difficult": difficult})
        x, y, width, height = (Decimal(repr(number)) for number in record["bbox"])
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
        _add(ElementTree.SubElement(element, "bndbox"), {key: _shortest(value) for key, value in corners.items()})
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(file, encoding="utf-8")


def _add(parent: ElementTree.Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _shortest(number: Decimal) -> str:
    """A number without decimals where it is whole, as readers expect."""
    return str(int(number)) if number == number.to_integral_value() else format(number, "f")


def _xml_text(text: str) -> str:
    if text != text.strip() or any(ord(character) < 32 for character in text):
        raise UserError(f"name {text!r:.80} begins or ends with a space or has a control character, which XML loses")
    return text
