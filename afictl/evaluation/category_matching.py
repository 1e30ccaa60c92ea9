"""Mapping of detector labels to category ids of a dataset, by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afictl.data import Dataset
from afictl.errors import UserError
from afictl.weights.classes import are_assumed

PLACEHOLDER = "N/A"
"""Class name of the labels for unused COCO ids in torchvision's COCO models."""
_MAX_NAMES = 5
_ASSUMED_ADVICE = "; if the checkpoint has no class names, name them with 'afictl convert IN OUT --classes'"
_OTHER_NUMBER_ADVICE = "; 'afictl finetune --weights' trains it on other classes"


def match_categories(
    classes: Sequence[str] | None, dataset: Dataset, *, owner: str = "the detector"
) -> tuple[int | None, ...]:
    """Return the category id of each label 1..K; None for a placeholder.

    Args:
        classes: class names in label order; None: those of the dataset.
        dataset: dataset with the category ids.
        owner: source of ``classes`` in the error, such as a checkpoint or the annotation file of another split.

    Raises:
        UserError: a class name that only one of the two has.
    """
    if classes is None or tuple(classes) == tuple(dataset.classes):
        return tuple(dataset.category_ids)
    source = dataset.annotation_file
    names = [name for name in classes if name != PLACEHOLDER]
    only_in_data = [name for name in dataset.classes if name not in names]
    only_in_classes = [name for name in names if name not in dataset.classes]
    if only_in_data or only_in_classes:
        raise UserError(
            f"the {len(names)} classes of {owner} are not the {len(dataset.classes)} of {source}"
            f"{_missing(owner, only_in_data)}{_missing(source, only_in_classes)}"
            f"{_advice(len(names) == len(dataset.classes)) if are_assumed(classes) else ''}"
        )
    ids = dict(zip(dataset.classes, dataset.category_ids, strict=True))
    return tuple(ids.get(name) for name in classes)


def own_categories(classes: Sequence[str], metadata: Mapping[str, Any]) -> list[int | None]:
    """Category id of each label of a detector without a dataset, None for a placeholder.

    The ids are those in the ``metadata`` of its checkpoint, or 1..K if it has no unique ones.
    """
    ids = metadata.get("category_ids")
    is_class = [name != PLACEHOLDER for name in classes]
    class_ids = [number for number, use in zip(ids or [], is_class, strict=False) if use]
    if ids is None or len(ids) != len(is_class) or len(set(class_ids)) < len(class_ids):
        ids = range(1, len(is_class) + 1)
    return [number if use else None for number, use in zip(ids, is_class, strict=True)]


def _advice(same_number: bool) -> str:
    """What to do about names that were assumed."""
    return _ASSUMED_ADVICE if same_number else _OTHER_NUMBER_ADVICE


def _missing(source: object, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"; {source} does not have {', '.join(repr(name) for name in names[:_MAX_NAMES])}{more}"
