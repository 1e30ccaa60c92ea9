"""What one-stage heads share: towers, flat maps, the class loss, and the choice of detections.

Legend: N images, K classes without background, A anchors (or points) a position, P anchors of all positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image, sigmoid_focal_loss

from afictl.detectors.rpn import nonempty

_DEPTH = 4
_PRIOR = 0.01
"""Score that a fresh head gives to every class everywhere, so that background does not drown the first steps."""


class Candidates(NamedTuple):
    """Detections of one image before suppression."""

    boxes: Tensor
    """(n, 4) pixels, not clipped."""
    labels: Tensor
    """(n,) int64 in 1..K."""
    scores: Tensor
    """(n,)"""


def tower(channels: int, group_norm: bool = False) -> nn.Sequential:
    """Four 3x3 convolutions that keep the channels, each with ReLU and, if wanted, group norm before it."""
    layers: list[nn.Module] = []
    for _ in range(_DEPTH):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        if group_norm:
            layers.append(nn.GroupNorm(_groups(channels), channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _groups(channels: int) -> int:
    """32; fewer for narrow maps, so that a group has two channels: one alone has no variance on a 1 x 1 map."""
    return max(1, min(math.gcd(32, channels), channels // 2))


def initialise(modules: Iterable[nn.Module], class_logits: nn.Conv2d) -> None:
    """Small random weights for all convolutions, and a bias that makes every class unlikely."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.get_parameter("bias"))
    nn.init.constant_(class_logits.get_parameter("bias"), -math.log((1 - _PRIOR) / _PRIOR))


def flat(value: Tensor, width: int) -> Tensor:
    """A map (N, A * width, H, W) as (N, H * W * A, width), position-major as anchors are."""
    n, _, h, w = value.shape
    return value.view(n, -1, width, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, width)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed sigmoid focal loss (https://arxiv.org/abs/1708.02002), alpha 0.25 and gamma 2.

    Args:
        logits: (..., K).
        labels: int64 (...), 1..K for an object, 0 for background, -1 where nothing is asked.
    """
    wanted = torch.zeros_like(logits)
    wanted.scatter_(-1, (labels - 1).clamp(min=0)[..., None], (labels > 0).to(logits.dtype)[..., None])
    return sigmoid_focal_loss(logits, wanted).sum(dim=-1)[labels >= 0].sum()


def best(scores: Tensor, allowed: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of the ``scores`` (P, K) that are ``allowed`` (P, K): row, label 1..K and score, (n,) each."""
    row, column = torch.where(allowed)
    highest, order = scores[row, column].topk(min(limit, len(row)))
    return row[order], column[order] + 1, highest


def suppress(
    candidates: Sequence[Candidates], size: tuple[int, int], threshold: float, limit: int
) -> dict[str, Tensor]:
    """One image's detections, best first, from the candidates of all levels.

    Boxes are compared as they were predicted and clipped afterwards, as in detectron2.

    Args:
        candidates: of each level.
        size: height and width of the image without padding.
        threshold: overlap (IoU) from which the weaker of two boxes of a class is dropped.
        limit: most detections.
    """
    boxes, labels, scores = (torch.cat(field) for field in zip(*candidates, strict=True))
    clipped = clip_boxes_to_image(boxes, size)
    # One infinite box would spoil the comparison of all others.
    real = nonempty(clipped) & boxes.isfinite().all(dim=1)
    boxes, clipped, labels, scores = boxes[real], clipped[real], labels[real], scores[real]
    keep = batched_nms(boxes, scores, labels, threshold)[:limit]
    return {"boxes": clipped[keep], "labels": labels[keep], "scores": scores[keep]}
