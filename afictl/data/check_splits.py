"""The check of a split against the training split: the same classes, and no image of it."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

from afictl.data.check_report import Place, SplitReport
from afictl.data.folders import find_files
from afictl.data.formats.coco_records import FIELDS, read_instances, record_fault
from afictl.errors import UserError


def compare_with_train(data_dir: Path, contents: dict[str, Any], image_dir: Path, report: SplitReport) -> None:
    """Note in ``report`` how a split's annotation file ``contents`` and its images clash with the training split's.

    A training split that cannot be read is a finding of its own check, not of this one.
    """
    try:
        train_file, train_dir = find_files(data_dir, "train")
        train = read_instances(train_file)
    except UserError:
        return
    if report.split == "val":  # training reads no other split beside its own
        _compare_classes(_names(train), _names(contents), train_file, report)
    for name in sorted(_file_names(train) & _file_names(contents)):
        if _same_file(train_dir / name, image_dir / name):
            report.add("file-in-train", Place(name))


def _compare_classes(train: dict[str, int], own: dict[str, int], train_file: Path, report: SplitReport) -> None:
    """``train`` and ``own``: category id by name."""
    for name in sorted(own.keys() - train.keys()):
        report.add("classes-differ", Place(detail=f"'{name}' is not in {train_file}"))
    for name in sorted(train.keys() - own.keys()):
        report.add("classes-differ", Place(detail=f"'{name}' is only in {train_file}"))
    for name in sorted(own.keys() & train.keys()):
        if own[name] != train[name]:
            report.add("category-ids-differ", Place(detail=f"{name}: id {own[name]}, in {train_file} {train[name]}"))


def _names(contents: dict[str, Any]) -> dict[str, int]:
    return {record["name"]: record["id"] for record in _sound(contents, "categories")}


def _file_names(contents: dict[str, Any]) -> set[str]:
    return {record["file_name"] for record in _sound(contents, "images")}


def _sound(contents: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [record for record in contents[key] if record_fault(record, FIELDS[key]) is None]


def _same_file(first: Path, second: Path) -> bool:
    """Whether both exist with the same bytes: splits that number their files anew share names, not images."""
    return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)
