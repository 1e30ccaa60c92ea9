"""Comparison of a split with the training split: the same classes, and no common image."""

from __future__ import annotations

from pathlib import Path

from afictl.data.check_report import Location, SplitReport
from afictl.data.folders import leaves_folder, portable_name
from afictl.data.formats.coco_records import FIELDS, Contents, Record, record_fault
from afictl.data.image_listing import have_equal_content
from afictl.data.layouts import find_split
from afictl.errors import UserError


def compare_with_train(data_dir: Path, contents: Contents, image_dir: Path, report: SplitReport) -> None:
    """Add to ``report`` the conflicts of a split's annotations ``contents`` and images with the training split.

    A training split that cannot be read is reported by its own check only. Only the classes of val are compared, as
    training reads no other split.
    """
    try:
        files = find_split(data_dir, "train")
        train = files.read_records()
    except UserError:
        return
    if report.split == "val" and _has_valid_classes(train) and _has_valid_classes(contents):
        _compare_classes(_names(train), _names(contents), files.annotation_file, report)
    for name in sorted(_file_names(train) & _file_names(contents)):
        paths = [folder / portable_name(folder, name) for folder in (files.image_dir, image_dir)]
        if not leaves_folder(image_dir, portable_name(image_dir, name)) and have_equal_content(*paths):
            report.add("file-in-train", Location(name))


def _has_valid_classes(contents: Contents) -> bool:
    """Whether all categories are valid, and there are any; otherwise differences follow from that."""
    return 0 < len(contents["categories"]) == len(_valid_records(contents, "categories"))


def _compare_classes(train: dict[str, int], split: dict[str, int], train_file: Path, report: SplitReport) -> None:
    """``train`` and ``split``: category id by name."""
    for name in sorted(split.keys() - train.keys()):
        report.add("classes-differ", Location(detail=f"'{name}' is not in {train_file}"))
    for name in sorted(train.keys() - split.keys()):
        report.add("classes-differ", Location(detail=f"'{name}' is only in {train_file}"))
    for name in sorted(split.keys() & train.keys()):
        if split[name] != train[name]:
            report.add(
                "category-ids-differ", Location(detail=f"{name}: id {split[name]}, in {train_file} {train[name]}")
            )


def _names(contents: Contents) -> dict[str, int]:
    return {record["name"]: record["id"] for record in _valid_records(contents, "categories")}


def _file_names(contents: Contents) -> set[str]:
    return {record["file_name"] for record in _valid_records(contents, "images")}


def _valid_records(contents: Contents, key: str) -> list[Record]:
    return [record for record in contents[key] if record_fault(record, FIELDS[key]) is None]
