"""The check that all learned interpolators make of their options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from afictl.errors import UserError


def check_options(kind: str, options: Mapping[str, Any], odd: Collection[str] = ()) -> None:
    """Refuse options that are not whole numbers above zero.

    Args:
        odd: names of the options, sizes of kernels, that must be odd to have a middle.

    Raises:
        UserError: names the option.
    """
    for name, value in options.items():
        if type(value) is not int or value < 1 or (name in odd and value % 2 == 0):
            wanted = "odd whole number" if name in odd else "whole number"
            raise UserError(f"interpolator '{kind}': {name} is a positive {wanted}, not {value!r}")
