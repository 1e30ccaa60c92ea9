"""Which class logits of a head answer for one given box.

Selection (proposals, the best thousand, suppression) has no gradient. Here the box is given instead: a two-stage head
classifies it as a region, a one-stage head answers where it would be trained to. What comes out is differentiable.
Legend: P points or anchors of a level, K classes. Boxes are (x1, y1, x2, y2) in pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

_IOU = 0.5
"""From which overlap with the box an anchor answers for it."""


class Answers(NamedTuple):
    """One level's logits of one class, and which of them are about the box."""

    logits: Tensor
    """(P,)"""
    about: Tensor
    """(P,) bool."""
    closeness: Tensor
    """(P,), the larger the nearer to the box; comparable between levels."""


def anchor_answers(logits: Tensor, anchors: Tensor, box: Tensor) -> Answers:
    """Those of the anchors (P, 4) that overlap ``box`` (4,) by an IoU of at least 0.5."""
    overlap = box_iou(anchors, box[None])[:, 0]
    return Answers(logits, overlap >= _IOU, overlap)


def point_answers(logits: Tensor, xy: Tensor, about: Tensor, box: Tensor) -> Answers:
    """Those of the points ``xy`` (P, 2) that ``about`` (P,) names."""
    return Answers(logits, about, -(xy - (box[:2] + box[2:]) / 2).norm(dim=1))


def evidence(levels: Mapping[str, Answers]) -> dict[str, Tensor]:
    """The logits about the box of each level that has any; where none has, the single nearest one."""
    chosen = {level: answers.logits[answers.about] for level, answers in levels.items() if answers.about.any()}
    if chosen:
        return chosen
    level = max(levels, key=lambda name: float(levels[name].closeness.max()))
    nearest = levels[level].closeness.argmax()
    return {level: levels[level].logits[nearest][None]}


def region_evidence(
    pooled: Tensor, stages: Sequence[tuple[nn.Module, nn.Module]], column: int, level: str
) -> dict[str, Tensor]:
    """For one region (1, C, h, w) column ``column`` of the logits of each of ``stages``, box head and predictor."""
    return {level: torch.cat([predictor(head(pooled))[0][:, column] for head, predictor in stages])}
