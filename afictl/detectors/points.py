"""Points that answer for boxes, as FCOS sees them.

Legend: P points, G objects of an image. Sides are (left, top, right, bottom), from a point to those sides of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from afictl.detectors.targets import Target

_RADIUS = 1.5
"""How far from an object's centre its points lie, in strides, along each axis."""


class Points(NamedTuple):
    """Points of one or more levels, and the objects that they serve."""

    xy: Tensor
    """(P, 2) pixels."""
    strides: Tensor
    """(P,) pixels."""
    low: Tensor
    """(P,) pixels: the farthest side of a served box is at least this far."""
    high: Tensor
    """(P,) pixels: and at most this far."""

    @classmethod
    def of_map(cls, value: Tensor, stride: int, low: float, high: float) -> Points:
        """The middle of every position of a map (N, C, h, w), row by row."""
        h, w = value.shape[-2:]
        x, y = (torch.arange(n, device=value.device, dtype=torch.float32) * stride + stride // 2 for n in (w, h))
        xy = torch.stack((x.expand(h, w), y[:, None].expand(h, w)), dim=-1).view(-1, 2)
        return cls(xy, *(xy.new_full((len(xy),), number) for number in (stride, low, high)))

    @classmethod
    def join(cls, levels: Sequence[Points]) -> Points:
        """The points of all levels, one level after the other."""
        return cls(*(torch.cat(field) for field in zip(*levels, strict=True)))


def box_sides(xy: Tensor, boxes: Tensor) -> Tensor:
    """From points (..., 2) to the sides of boxes (..., 4), negative where the point is outside."""
    return torch.cat((xy - boxes[..., :2], boxes[..., 2:] - xy), dim=-1)


def sides_to_boxes(xy: Tensor, sides: Tensor) -> Tensor:
    """The boxes (..., 4) whose ``sides`` are that far from points (..., 2)."""
    return torch.cat((xy - sides[..., :2], xy + sides[..., 2:]), dim=-1)


def centerness(sides: Tensor) -> Tensor:
    """1 in the middle of the box, 0 at its border, from sides (..., 4), all positive."""
    lowest = torch.minimum(sides[..., :2], sides[..., 2:])
    highest = torch.maximum(sides[..., :2], sides[..., 2:])
    return (lowest / highest).prod(dim=-1).sqrt()


@torch.no_grad()
def assign(points: Points, target: Target) -> tuple[Tensor, Tensor]:
    """What each point has to answer: its label, int64 (P,), 0 for background, and its sides in strides, (P, 4).

    A point serves the smallest of the objects that it is near the centre of and whose size its level serves.
    """
    boxes = target["boxes"].float()
    if len(boxes) == 0:
        return points.strides.new_zeros(len(points.xy), dtype=torch.int64), torch.zeros_like(points.xy).repeat(1, 2)
    sides = box_sides(points.xy[:, None], boxes)  # (P, G, 4)
    reach = sides.amax(dim=-1)
    served = (reach >= points.low[:, None]) & (reach <= points.high[:, None]) & _near_centre(points, boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    smallest, index = areas.where(served, areas.new_tensor(float("inf"))).min(dim=1)
    labels = target["labels"][index].where(smallest.isfinite(), 0)
    return labels, sides[torch.arange(len(index), device=index.device), index] / points.strides[:, None]


def _near_centre(points: Points, boxes: Tensor) -> Tensor:
    """Which points are inside a box and near its centre, (P, G) bool."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    radius = _RADIUS * points.strides[:, None, None]
    low, high = torch.maximum(centres - radius, boxes[:, :2]), torch.minimum(centres + radius, boxes[:, 2:])
    xy = points.xy[:, None]
    return ((xy > low) & (xy < high)).all(dim=-1)


def giou_loss(sides: Tensor, wanted: Tensor) -> Tensor:
    """1 - generalised IoU (https://arxiv.org/abs/1902.09630) of boxes around the same points, (n,).

    Areas get one square stride more in the IoU, as in the authors' code: a box that is thinner than a stride
    does not count as a total miss.

    Args:
        sides: (n, 4), not negative.
        wanted: (n, 4), positive.
    """
    area, wanted_area = _area(sides), _area(wanted)
    common, hull = _area(torch.minimum(sides, wanted)), _area(torch.maximum(sides, wanted))
    union = area + wanted_area - common
    return 1 - (common + 1) / (union + 1) + (hull - union) / hull


def _area(sides: Tensor) -> Tensor:
    return (sides[..., :2] + sides[..., 2:]).prod(dim=-1)
