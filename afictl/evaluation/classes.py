"""Which category id of a data set each label of a detector stands for."""

from __future__ import annotations

from collections.abc import Sequence

from afictl.errors import UserError

PLACEHOLDER = "N/A"  # torchvision's COCO models keep labels for the ids that COCO does not use


def match_categories(
    classes: Sequence[str] | None,
    names: Sequence[str],
    category_ids: Sequence[int],
    *,
    known_to: str = "the detector",
    source: str = "the data set",
) -> tuple[int | None, ...]:
    """The category id of each label 1..K, matched by name; None for a placeholder.

    Args:
        classes: the detector's class names in label order; None takes the data set's order.
        names: the data set's class names.
        category_ids: the ids that belong to ``names``.
        known_to: what has ``classes``, for the error; for two splits the training split's file.
        source: what has ``names``, for the error; the annotation file.

    Raises:
        UserError: the two do not hold the same names; says which are whose.
    """
    if classes is None or tuple(classes) == tuple(names):
        return tuple(category_ids)
    known = [name for name in classes if name != PLACEHOLDER]
    unknown_to_detector = [name for name in names if name not in known]
    unknown_to_data = [name for name in known if name not in names]
    if unknown_to_detector or unknown_to_data:
        raise UserError(
            f"the {len(known)} classes of {known_to} are not the {len(names)} of {source}"
            f"{_listed(f'; {known_to} does not know', unknown_to_detector)}"
            f"{_listed(f'; {source} does not have', unknown_to_data)}"
        )
    ids = dict(zip(names, category_ids, strict=True))
    return tuple(ids.get(name) for name in classes)


def _listed(introduction: str, names: list[str], most: int = 5) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{introduction} {', '.join(repr(name) for name in names[:most])}{more}"
