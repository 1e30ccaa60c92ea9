"""Sizes of images for formats that do not state them, from the headers of the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from afictl.data.images import displayed_size, opened_image

_THREADS = 8
"""They wait for the disk together."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as displayed, thus after its EXIF orientation.

    Raises:
        UserError: the file cannot be read as an image.
    """
    with opened_image(path) as image:
        return displayed_size(image)


def read_all(read: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The result of ``read`` for each item, in several threads; the first error in their order is raised."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, items))
