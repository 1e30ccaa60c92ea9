"""Class logits of a head for one given box, differentiable.

Selection (of proposals, by score, by non-maximum suppression) has no gradient. A two-stage head classifies the box
as a region; a one-stage head has logits at the anchors or points that training would assign to it.
Legend: P points or anchors of a level, K classes. Boxes are (x1, y1, x2, y2) in pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

_MIN_IOU = 0.5
"""Lowest overlap of an anchor that matches the box."""


class LevelLogits(NamedTuple):
    """Logits of one class at all positions of a level, and which of the positions match the box."""

    logits: Tensor
    """(P,)"""
    matches: Tensor
    """(P,) bool."""
    proximity: Tensor
    """(P,), higher nearer to the box; comparable between levels."""


def anchor_logits(logits: Tensor, anchors: Tensor, box: Tensor) -> LevelLogits:
    """Logits (P,) of anchors (P, 4), of which those match that overlap ``box`` (4,) by an IoU of at least 0.5."""
    overlap = box_iou(anchors, box[None])[:, 0]
    return LevelLogits(logits, overlap >= _MIN_IOU, overlap)


def point_logits(logits: Tensor, xy: Tensor, matches: Tensor, box: Tensor) -> LevelLogits:
    """Logits (P,) of points ``xy`` (P, 2), of which ``matches`` (P,) match ``box`` (4,)."""
    return LevelLogits(logits, matches, -(xy - (box[:2] + box[2:]) / 2).norm(dim=1))


def matching_logits(levels: Mapping[str, LevelLogits]) -> dict[str, Tensor]:
    """The matching logits of each level that has any; where no level has, the single nearest logit."""
    matching = {name: level.logits[level.matches] for name, level in levels.items() if level.matches.any()}
    if matching:
        return matching
    nearest = max(levels, key=lambda name: float(levels[name].proximity.max()))
    index = levels[nearest].proximity.argmax()
    return {nearest: levels[nearest].logits[index][None]}


def region_logits(
    pooled: Tensor, stages: Sequence[tuple[nn.Module, nn.Module]], column: int, level: str
) -> dict[str, Tensor]:
    """Column ``column`` of the class logits of one region (1, C, h, w), from each stage of box head and predictor."""
    return {level: torch.cat([predictor(head(pooled))[0][:, column] for head, predictor in stages])}
