"""The contents of a COCO annotation file as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Annotations:
    """The columns of one annotation file, in file order; n images, m objects."""

    file: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: np.ndarray
    file_names: list[str]
    sizes_hw: np.ndarray
    """(n,2) int64."""
    ids: np.ndarray
    image_index: np.ndarray
    """(m,) int64, position of each object's image."""
    labels: np.ndarray
    """(m,) int64, 1..K in the order of ``classes``."""
    xywh: np.ndarray
    """(m,4) float64, as written in the file."""
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: Sequence[Any]
    """As written in the file, parsed or as ``msgspec.Raw``; None where absent."""
