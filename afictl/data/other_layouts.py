"""Dataset folders as other programs export them that are not read, with the steps to a layout that is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from afictl.regular_files import open_regular

_MAX_ENTRIES = 20_000
"""Of one folder, that are looked at."""
_ANY_DEPTH = "**/"
_MAX_DEPTH = 3
"""Folders between, as a whole disk may be given by mistake."""
_MAX_NAMES = 4
_JSON = ("*.json", "*/*.json")
_IMAGES = ("*.jpg", "*.jpeg", "*.JPG", "*.png")


class Layout(NamedTuple):
    """Layout of another program."""

    program: str
    patterns: tuple[str, ...]
    """Glob patterns, each of which must match a path below the dataset folder."""
    advice: str


_CONVERT = "export the dataset as COCO JSON instead"
_YOLO_FILES = "write a data.yaml with the class names and the image folders of train and val"
_VOC_FILES = "move them to Annotations, the images to JPEGImages, and list each split in ImageSets/Main/SPLIT.txt"
_LAYOUTS = (
    Layout(
        "Roboflow's COCO export in one folder",
        ("_annotations.coco.json",),
        "split it into train and val, each with annotations/instances_SPLIT.json and an image folder SPLIT",
    ),
    Layout(
        "a COCO export of CVAT or Datumaro",
        ("annotations/instances_default.json",),
        "rename annotations/instances_default.json to annotations/instances_train.json and the image folder to train; "
        "make a val split likewise",
    ),
    Layout(
        "COCO's layout with the images in one folder",
        ("annotations/instances_*.json", "images/*.*"),
        "move the images of the split into a folder of its name, such as train",
    ),
    Layout(
        "Label Studio's COCO export",
        ("result.json", "images"),
        "split result.json into annotations/instances_train.json and annotations/instances_val.json, with file names "
        "without 'images/', and put the images into train and val",
    ),
    Layout(
        "FiftyOne's COCO export",
        ("labels.json", "data"),
        "move labels.json to annotations/instances_train.json and rename the folder data to train; export the val "
        "split likewise",
    ),
    Layout(
        "FiftyOne's COCO export with a folder for each split",
        ("*/labels.json", "*/data"),
        "move SPLIT/labels.json to annotations/instances_SPLIT.json and SPLIT/data to SPLIT, for train and val",
    ),
    Layout(
        "COCO's layout with another name of the folder",
        ("Annotations/instances_*.json",),
        "rename the folder Annotations to annotations",
    ),
    Layout(
        "COCO annotations beside their images",
        ("*/annotation*coco*.json",),
        "move SPLIT/annotation_coco.json to annotations/instances_SPLIT.json, for train and val",
    ),
    Layout("FiftyOne's own format", ("samples.json", "metadata.json"), f"{_CONVERT} (FiftyOne's COCODetectionDataset)"),
    Layout("Supervisely's format", ("meta.json", "*/ann"), f"{_CONVERT} (the app 'Export to COCO')"),
    Layout("Supervisely's format", ("*/meta.json",), f"{_CONVERT} (the app 'Export to COCO')"),
    Layout(
        "Pascal VOC's layout without lists of images",
        ("Annotations/*.xml",),
        "list the names of the images of each split in ImageSets/Main/train.txt and val.txt",
    ),
    Layout(
        "Pascal VOC's layout in a deeper folder", ("**/Annotations/*.xml",), "give the folder that holds Annotations"
    ),
    Layout("Pascal VOC's files", ("*.xml",), _VOC_FILES),
    Layout("Pascal VOC's files", ("*/*.xml",), _VOC_FILES),
    Layout("VisDrone's layout", ("**/VisDrone*/annotations/*.txt",), "convert it to COCO JSON"),
    Layout("DOTA's layout", ("**/labelTxt/*.txt",), "convert it to COCO JSON, with upright boxes"),
    Layout("KITTI's layout", ("**/label_2/*.txt",), "convert it to COCO JSON, for example with FiftyOne"),
    Layout(
        "Open Images' tables", ("**/*annotations-bbox.csv",), "convert them to COCO JSON, for example with Datumaro"
    ),
    Layout("Open Images' tables", ("labels/detections.csv",), f"{_CONVERT} (FiftyOne's COCODetectionDataset)"),
    Layout("CrowdHuman's annotations", ("*.odgt",), "convert them to COCO JSON"),
    Layout("Cityscapes' layout", ("gtFine/*",), "convert it to COCO JSON"),
    Layout("Hugging Face's image folder", ("**/metadata.jsonl",), "convert it to COCO JSON"),
    Layout("CreateML's format", ("**/_annotations.createml.json",), _CONVERT),
    Layout("YOLO's layout", ("labels/**/*.txt",), _YOLO_FILES),
    Layout("YOLO's layout", ("*/labels/*.txt",), _YOLO_FILES),
    Layout("YOLO's layout", ("data.yaml",), "give data.yaml the keys names, train and val"),
    Layout("YOLO's layout", ("obj.data",), _YOLO_FILES),
    Layout("YOLO's layout", ("classes.txt", "*.txt"), _YOLO_FILES),
    Layout("a table", ("**/_annotations.csv",), _CONVERT),
    Layout("TFRecord", ("**/*.tfrecord",), _CONVERT),
    Layout("an archive", ("*.zip",), "unpack it"),
    Layout("an archive", ("*.tar*",), "unpack it"),
)
"""Common layouts, more specific ones first."""

_CONTENTS = {
    "a COCO file of another name or in another place": (
        (b'"file_name"', b'"height"'),
        "move the file of each split to annotations/instances_SPLIT.json and its images into a folder SPLIT, for train "
        "and val",
    ),
    "LabelMe's files": ((b'"shapes"', b'"imagePath"'), "convert them to COCO JSON, for example with labelme2coco"),
    "Datumaro's own format": ((b'"items"', b'"categories"'), f"{_CONVERT} (datum convert -f coco_instances)"),
    "Label Studio's own format": ((b'"completed_by"',), f"{_CONVERT} (Export, COCO)"),
    "VGG Image Annotator's format": ((b'"shape_attributes"',), f"{_CONVERT} (Annotation, Export Annotations)"),
}
"""JSON of other programs, by keys at its beginning or end, with the advice."""
_HEAD_BYTES = 2**16
_TAIL_BYTES = 2**12


def describe_layout(data_dir: Path) -> str:
    """What a folder of no supported layout holds, and what to do; empty if nothing is recognised.

    Args:
        data_dir: an existing folder.
    """
    for layout in _LAYOUTS:
        matches = [next(_matches(data_dir, pattern), None) for pattern in layout.patterns]
        if all(matches):
            evidence = ", ".join(str(path) for path in matches)
            return f"this looks like {layout.program} ({evidence}): {layout.advice}"
    nested = [path for path in _matches(data_dir, "*/annotations") if (data_dir / path).is_dir()]
    if nested:
        return f"the dataset seems to be one folder deeper: {data_dir / nested[0].parent}"
    names = sorted(str(path) for pattern in _JSON for path in _matches(data_dir, pattern) if not _is_expected(path))
    for name in names[:_MAX_NAMES]:
        for program, (keys, advice) in _CONTENTS.items():
            if all(key in _ends(data_dir / name) for key in keys):
                return f"this looks like {program} ({name}): {advice}"
    if not names:
        images = next((path for suffix in _IMAGES for path in _matches(data_dir, suffix)), None)
        return f"it has images ({images}) but no annotations: export or make a COCO JSON file" if images else ""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"JSON files that it has: {', '.join(names[:_MAX_NAMES])}{more}; move or rename those with the annotations"


def _matches(data_dir: Path, pattern: str) -> Iterator[Path]:
    """Paths below ``data_dir`` that match, relative to it; folders that cannot be read have none."""
    depths = range(_MAX_DEPTH + 1) if _ANY_DEPTH in pattern else (0,)
    try:
        for depth in depths:
            for path in islice(data_dir.glob(pattern.replace(_ANY_DEPTH, "*/" * depth)), _MAX_ENTRIES):
                yield path.relative_to(data_dir)
    except OSError:
        return


def _is_expected(path: Path) -> bool:
    return path.parent.name == "annotations" and path.name.startswith(("instances_train", "instances_val"))


def _ends(file: Path) -> bytes:
    """The first 64 KiB and the last 4: embedded images and long lists lie between."""
    try:
        with open_regular(file) as opened:
            head = opened.read(_HEAD_BYTES)
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(len(head), size - _TAIL_BYTES))
            return head + opened.read(_TAIL_BYTES)
    except OSError:
        return b""
