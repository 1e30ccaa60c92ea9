"""Values of COCO records, also as pandas writes them: whole numbers as 7.0, and absent ones as NaN."""

from __future__ import annotations

import math
import reprlib
from typing import TypeGuard

from afictl.control_characters import has_control_characters

_UNSET_TEXTS = ("", "0", "0.0", "false", "nan", "none", "null")
_SET_TEXTS = ("1", "1.0", "true")
_MAX_CHARACTERS = 60

_FLOAT_MAX = 1.7976931348623157e308
"""JSON's numbers have no limit; a larger one has no float64."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number that float64 can hold, NaN and infinity included; ``true`` and ``false`` are none."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= _FLOAT_MAX)


def is_id(value: object) -> TypeGuard[int | float]:
    """Whether it is a whole number that int64 can hold, also as a float that is exact."""
    return (type(value) is int and abs(value) < 2**63) or (
        isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
    )


def is_name(value: object) -> TypeGuard[str]:
    """Whether it is a name of a file: text that is not empty, without the null character."""
    return isinstance(value, str) and value != "" and "\0" not in value


CLASS_NAME = "a text of one line, neither blank nor with control characters"
"""The values that ``is_class_name`` accepts, for messages."""


def is_class_name(value: object) -> TypeGuard[str]:
    """Whether it is a name of a class: text of one line that is not blank.

    Class names stand in tables, in lists of one name a line, and in pictures.
    """
    return isinstance(value, str) and value.strip() != "" and not has_control_characters(value)


def parse_flag(value: object) -> bool | None:
    """Value of a flag such as ``iscrowd``; None for a value that is no flag.

    Null, NaN and empty text mean that it is absent, thus not set; 0, 1, ``false`` and ``true`` may be written as text.
    Any other finite number sets it, as in pycocotools.
    """
    if value is None:
        return False
    if isinstance(value, str):
        text = value.strip().lower()
        return True if text in _SET_TEXTS else False if text in _UNSET_TEXTS else None
    if not isinstance(value, bool | int | float) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value == value and value != 0  # NaN differs from itself


def is_flag(value: object) -> bool:
    """Whether ``parse_flag`` accepts it."""
    return parse_flag(value) is not None


def shorten(value: object) -> str:
    """Representation of any JSON value in at most 60 characters, however long or deep it is."""
    return f"{reprlib.repr(value):.{_MAX_CHARACTERS}}"
