"""Layers, loss and selection of detections that one-stage heads share.

Legend: N images, K classes without background, A anchors (or points) per position, P anchors of all positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, sigmoid_focal_loss

from afictl.detectors.head import Detections
from afictl.detectors.rpn import nonempty
from afictl.detectors.suppression import grouped_nms

_NUM_CONVS = 4
_INITIAL_SCORE = 0.01
"""Of every class everywhere, so that background does not dominate the loss of the first steps."""


class Candidates(NamedTuple):
    """Detections of one image before non-maximum suppression."""

    boxes: Tensor
    """(n, 4) pixels, not clipped."""
    labels: Tensor
    """(n,) int64 in 1..K."""
    scores: Tensor
    """(n,)"""


def conv_tower(channels: int, group_norm: bool = False) -> nn.Sequential:
    """Four 3x3 convolutions of ``channels`` channels, each with ReLU and optionally group norm before it."""
    layers: list[nn.Module] = []
    for _ in range(_NUM_CONVS):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        if group_norm:
            layers.append(nn.GroupNorm(_num_groups(channels), channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _num_groups(channels: int) -> int:
    """32; fewer for narrow maps, so that a group has two channels: a single one has no variance on a 1 x 1 map."""
    return max(1, min(math.gcd(32, channels), channels // 2))


def initialize_head(modules: Iterable[nn.Module], class_logits: nn.Conv2d) -> None:
    """Initialise all convolutions with small random weights, and ``class_logits`` with a bias for low scores."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.get_parameter("bias"))
    nn.init.constant_(class_logits.get_parameter("bias"), -math.log((1 - _INITIAL_SCORE) / _INITIAL_SCORE))


def flatten_map(value: Tensor, width: int) -> Tensor:
    """A map (N, A * width, H, W) as (N, H * W * A, width), position-major as anchors are."""
    n, _, h, w = value.shape
    return value.view(n, -1, width, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, width)


def flatten_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """The maps of all levels as one tensor (N, P, width), one level after the other."""
    return torch.cat([flatten_map(value, width) for value in maps], dim=1)


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed sigmoid focal loss (https://arxiv.org/abs/1708.02002), alpha 0.25 and gamma 2.

    Args:
        logits: (..., K).
        labels: int64 (...), 1..K for an object, 0 for background, -1 for positions without a loss.
    """
    targets = torch.zeros_like(logits)
    targets.scatter_(-1, (labels - 1).clamp(min=0)[..., None], (labels > 0).to(logits.dtype)[..., None])
    return sigmoid_focal_loss(logits, targets).sum(dim=-1)[labels >= 0].sum()


def top_scores(scores: Tensor, allowed: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, label in 1..K and value, (n,) each, of the ``limit`` highest ``scores`` (P, K) where ``allowed`` (P, K)."""
    row, column = torch.where(allowed)
    highest, order = scores[row, column].topk(torch.sym_min(limit, row.shape[0]))
    return row[order], column[order] + 1, highest


def suppress(candidates: Sequence[Candidates], size: tuple[int, int], threshold: float, limit: int) -> Detections:
    """Detections of one image, best first: non-maximum suppression of the candidates of all levels, per class.

    Boxes are compared as they were predicted and clipped afterwards, as in detectron2.

    Args:
        candidates: of each level.
        size: height and width of the image without padding.
        threshold: IoU from which the weaker of two boxes of a class is dropped.
        limit: largest number of detections.
    """
    boxes, labels, scores = (torch.cat(field) for field in zip(*candidates, strict=True))
    clipped = clip_boxes_to_image(boxes, size)
    # A single infinite box would make the comparison of all others wrong.
    valid = nonempty(clipped) & boxes.isfinite().all(dim=1)
    boxes, clipped, labels, scores = boxes[valid], clipped[valid], labels[valid], scores[valid]
    indices = grouped_nms(boxes, scores, labels, threshold)[:limit]
    return {"boxes": clipped[indices], "labels": labels[indices], "scores": scores[indices]}
