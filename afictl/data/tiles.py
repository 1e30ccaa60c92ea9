"""Overlapping tiles that cover an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from afictl.errors import UserError

MIN_TILE_PX = 32
"""A smaller tile is hardly larger than one position of the coarsest level of a pyramid."""
MAX_OVERLAP = 0.9


class Tile(NamedTuple):
    """Rectangle of an image in pixels; its far sides are excluded."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Tiling:
    """Side of the square tiles and the least overlap of neighbours.

    Raises:
        UserError: a value out of range.
    """

    size: int
    """Side in pixels."""
    overlap: float = 0.2
    """Fraction of the side that neighbours share at least, up to the rounding to whole pixels."""

    def __post_init__(self) -> None:
        if self.size < MIN_TILE_PX:
            raise UserError(f"tile size must be at least {MIN_TILE_PX} pixels (got {self.size})")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise UserError(f"overlap of tiles must be between 0 and {MAX_OVERLAP} (got {self.overlap})")

    def tiles(self, size_hw: tuple[int, int]) -> list[Tile]:
        """Tiles of an image of ``size_hw``, row by row.

        As few as the overlap allows, evenly spaced from border to border; a side of the image that is shorter than a
        tile is the side of its tiles.
        """
        height, width = size_hw
        return [
            Tile(left, top, min(left + self.size, width), min(top + self.size, height))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        excess = length - self.size
        if excess <= 0:
            return [0]
        intervals = math.ceil(excess / (self.size * (1 - self.overlap)))
        return [round(k * excess / intervals) for k in range(intervals + 1)]
