"""Writing of YOLO datasets; see ``formats.yolo`` for the format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from afictl.data.formats.coco_records import Contents, Record
from afictl.data.formats.coco_values import is_number, parse_flag
from afictl.data.formats.yolo import label_folder
from afictl.data.segmentation import as_polygons, normalize_segmentation
from afictl.yaml_files import dump_yaml


def write_yolo(folder: Path, splits: Mapping[str, Contents], places: Mapping[str, Mapping[str, str]]) -> Counter[str]:
    """Write ``data.yaml`` and the label files of all splits.

    Args:
        folder: of the dataset.
        splits: valid records by split.
        places: path of each image below ``folder``, by split and file name.

    Returns:
        Number of objects that are changed or left out, by reason.
    """
    by_id = [{c["id"]: c["name"] for c in contents["categories"]} for contents in splits.values()]
    names = list(dict.fromkeys(categories[k] for categories in by_id for k in sorted(categories)))
    changes: Counter[str] = Counter()
    for (split, contents), categories in zip(splits.items(), by_id, strict=True):
        lines: dict[int, list[str]] = {image["id"]: [] for image in contents["images"]}
        images = {image["id"]: image for image in contents["images"]}
        for record in contents["annotations"]:
            image, label = images[record["image_id"]], names.index(categories[record["category_id"]])
            numbers = _label(record, (int(image["height"]), int(image["width"])), changes)
            if numbers:
                lines[image["id"]].append(" ".join([str(label), *map(repr, numbers)]))
        for image in contents["images"]:
            path = folder / places[split][image["file_name"]]
            file = (label_folder(folder, path.parent) or path.parent) / f"{path.stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in lines[image["id"]]), encoding="utf-8")
    entries = {split: f"images/{split}" for split in splits}
    (folder / "data.yaml").write_text(dump_yaml({**entries, "nc": len(names), "names": names}), encoding="utf-8")
    return changes


def _label(record: Record, size_hw: tuple[int, int], changes: Counter[str]) -> list[float]:
    """Polygon or box of an object as fractions of its image; empty for one that YOLO has no form for."""
    height, width = size_hw
    if parse_flag(record.get("iscrowd")) or parse_flag(record.get("ignore")):
        changes["objects flagged 'iscrowd' or 'ignore' are left out"] += 1
        return []
    segmentation = record.get("segmentation")
    if isinstance(segmentation, dict):
        changes["run-length masks are written as boxes"] += 1
    elif normalize_segmentation(segmentation, size_hw):
        polygons = [p for p in as_polygons(segmentation) or () if len(p) >= 6 and all(map(is_number, p))]
        changes["masks of several polygons are joined to one"] += len(polygons) > 1
        return _clipped(_joined(polygons), size_hw, changes)
    x, y, w, h = map(float, record["bbox"])
    if x < 0 or y < 0 or x + w > width or y + h > height:
        left, top, right, bottom = _in_pixels(_clipped([x, y, x + w, y + h], size_hw, changes), size_hw)
        x, y, w, h = left, top, right - left, bottom - top
    return [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]


def _joined(polygons: Sequence[Sequence[float]]) -> list[float]:
    """One polygon of several, joined by edges that run to and fro and enclose nothing."""
    first = [float(number) for number in polygons[0]]
    if len(polygons) == 1:
        return first
    points = [*first, *first[:2]]
    for polygon in polygons[1:]:
        points += [*map(float, polygon), *map(float, polygon[:2]), *first[:2]]
    return points


def _clipped(numbers: Sequence[float], size_hw: tuple[int, int], changes: Counter[str]) -> list[float]:
    """Coordinates x, y, ... in pixels as fractions of the image, moved to its border where they are outside."""
    sides = (size_hw[1], size_hw[0])
    fractions = [number / sides[k % 2] for k, number in enumerate(numbers)]
    inside = [min(max(fraction, 0.0), 1.0) for fraction in fractions]
    changes["objects over the border are clipped to the image"] += inside != fractions
    return inside


def _in_pixels(fractions: Sequence[float], size_hw: tuple[int, int]) -> list[float]:
    return [fraction * size_hw[1 - k % 2] for k, fraction in enumerate(fractions)]
