"""Differences between the results of an exported file and of PyTorch for the same input.

Legend: n and m detections, H x W the image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from afictl.errors import UserError

TOLERANCES = {"boxes": 0.1, "scores": 1e-3, "mask_scores": 1e-3, "masks": 1e-3}
"""Largest difference: of boxes in pixels, of scores, of masks as a fraction of their pixels that are set."""
MAP_TOLERANCE = 1e-3
"""Largest difference of an enlarged map, as a fraction of its largest value."""


def detection_differences(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of each output except ``labels``; detections of almost equal scores may change places.

    Args:
        actual: ``boxes`` (n, 4), ``labels``, ``scores``, perhaps ``masks`` bool (n, H, W) and ``mask_scores``.
        expected: the same of m detections.

    Raises:
        UserError: other numbers of detections, or a detection without a counterpart of its label.
    """
    counts = len(actual["boxes"]), len(expected["boxes"])
    if counts[0] != counts[1]:
        raise UserError(f"the file gives {counts[0]} detections where PyTorch gives {counts[1]}")
    if not counts[0]:
        return {name: 0.0 for name in expected if name != "labels"}
    order = _counterparts(actual, expected)
    differences = {}
    for name, values in expected.items():
        if name == "masks":
            differing = (actual[name][order] ^ values).sum()
            differences[name] = float(differing / values.sum().clamp(min=1))
        elif name != "labels":
            differences[name] = float((actual[name][order] - values).abs().max())
    return differences


def _counterparts(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
    """Index int64 (n,) of the detection of ``actual`` that each of ``expected`` is."""
    distances = torch.cdist(expected["boxes"], actual["boxes"], p=1)
    distances += (expected["scores"][:, None] - actual["scores"]).abs()
    distances[expected["labels"][:, None] != actual["labels"]] = torch.inf
    nearest = distances.argmin(dim=1)
    if distances.amin(dim=1).isinf().any() or len(nearest.unique()) < len(nearest):
        raise UserError("the file gives other detections than PyTorch")
    return nearest


def map_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference of two maps, as a fraction of the largest value of ``expected``."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def require_small(differences: Mapping[str, float], subject: str) -> None:
    """Check the differences of detections against ``TOLERANCES``.

    Args:
        differences: name of an output -> difference.
        subject: of the error, such as the name of the image.

    Raises:
        UserError: one is too large, or no number.
    """
    for name, difference in differences.items():
        if not difference <= TOLERANCES[name]:
            limit = f"{difference:.3g}, more than {TOLERANCES[name]:g}"
            raise UserError(f"{subject}: {name} of the file differ from PyTorch's by {limit}")
