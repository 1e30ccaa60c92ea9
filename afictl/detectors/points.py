"""Points of feature maps that predict boxes, as in FCOS.

Legend: P points, G objects of an image. Sides are (left, top, right, bottom), from a point to those sides of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from afictl.detectors.head import Target

_RADIUS_STRIDES = 1.5
"""Largest distance of a point from the centre of its object along each axis."""


class Points(NamedTuple):
    """Points of one or more levels, and the sizes of object that they predict."""

    xy: Tensor
    """(P, 2) pixels."""
    strides: Tensor
    """(P,) pixels."""
    low: Tensor
    """(P,) pixels: least distance to the farthest side of a predicted box."""
    high: Tensor
    """(P,) pixels: largest distance to it."""

    @classmethod
    def from_map(cls, value: Tensor, stride: int, low: float, high: float) -> Points:
        """The centres of the positions of a map (N, C, h, w), row by row."""
        h, w = value.shape[-2:]
        x, y = (torch.arange(n, device=value.device, dtype=torch.float32) * stride + stride // 2 for n in (w, h))
        xy = torch.stack((x.expand(h, w), y[:, None].expand(h, w)), dim=-1).view(-1, 2)
        return cls(xy, *(xy.new_full((len(xy),), number) for number in (stride, low, high)))

    @classmethod
    def join(cls, levels: Sequence[Points]) -> Points:
        """The points of all levels, one level after the other."""
        return cls(*(torch.cat(field) for field in zip(*levels, strict=True)))


def box_sides(xy: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points (..., 2) to the sides of boxes (..., 4), negative where the point is outside."""
    return torch.cat((xy - boxes[..., :2], boxes[..., 2:] - xy), dim=-1)


def sides_to_boxes(xy: Tensor, sides: Tensor) -> Tensor:
    """The boxes (..., 4) with sides at the distances ``sides`` from points (..., 2)."""
    return torch.cat((xy - sides[..., :2], xy + sides[..., 2:]), dim=-1)


def centerness(sides: Tensor) -> Tensor:
    """Centerness (...), 1 in the centre of a box and 0 at its border, from positive ``sides`` (..., 4)."""
    lowest = torch.minimum(sides[..., :2], sides[..., 2:])
    highest = torch.maximum(sides[..., :2], sides[..., 2:])
    return (lowest / highest).prod(dim=-1).sqrt()


@torch.no_grad()
def assign(points: Points, target: Target) -> tuple[Tensor, Tensor]:
    """Targets of the points: labels int64 (P,), 0 for background, and sides in strides (P, 4).

    A point predicts the smallest of the objects that it is near the centre of and whose size its level predicts.
    """
    boxes = target["boxes"].float()
    if len(boxes) == 0:
        return points.strides.new_zeros(len(points.xy), dtype=torch.int64), torch.zeros_like(points.xy).repeat(1, 2)
    sides = box_sides(points.xy[:, None], boxes)  # (P, G, 4)
    reach = sides.amax(dim=-1)
    candidates = (reach >= points.low[:, None]) & (reach <= points.high[:, None]) & _near_centre(points, boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    smallest, index = areas.where(candidates, areas.new_tensor(float("inf"))).min(dim=1)
    labels = target["labels"][index].where(smallest.isfinite(), 0)
    return labels, sides[torch.arange(len(index), device=index.device), index] / points.strides[:, None]


def _near_centre(points: Points, boxes: Tensor) -> Tensor:
    """Whether a point is inside a box and near its centre, (P, G) bool."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    radius = _RADIUS_STRIDES * points.strides[:, None, None]
    low, high = torch.maximum(centres - radius, boxes[:, :2]), torch.minimum(centres + radius, boxes[:, 2:])
    xy = points.xy[:, None]
    return ((xy > low) & (xy < high)).all(dim=-1)


def giou_loss(sides: Tensor, targets: Tensor) -> Tensor:
    """1 - generalised IoU (https://arxiv.org/abs/1902.09630) of boxes around the same points, (n,).

    One square stride is added to areas in the IoU, as in the authors' code, so that the loss of a box thinner than a
    stride stays below its maximum.

    Args:
        sides: (n, 4), not negative.
        targets: (n, 4), positive.
    """
    common, hull = _area(torch.minimum(sides, targets)), _area(torch.maximum(sides, targets))
    union = _area(sides) + _area(targets) - common
    return 1 - (common + 1) / (union + 1) + (hull - union) / hull


def _area(sides: Tensor) -> Tensor:
    return (sides[..., :2] + sides[..., 2:]).prod(dim=-1)
