"""Non-maximum suppression within groups of boxes, such as classes or levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices int64 (k,) of the boxes that no better box of their group suppresses, best first.

    torchvision's ``batched_nms``. An exported graph cannot choose an algorithm by the number of boxes, nor leave
    out the suppression where there are none: there the groups are always moved apart, as torchvision moves few boxes.

    Args:
        boxes: (n, 4).
        scores: (n,).
        groups: int64 (n,), 0 or greater.
        threshold: IoU from which the weaker of two boxes of a group is dropped.
    """
    if not torch.compiler.is_exporting():
        return batched_nms(boxes, scores, groups, threshold)
    extent = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max() + 1
    return nms(boxes + (groups.to(boxes) * extent)[:, None], scores, threshold)
