"""Families of similar cases, of which every run of the tests has a few of different structure."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def others_slow(cases: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Parameters of a test: ``cases``, of which those that are not in ``quick`` are slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
