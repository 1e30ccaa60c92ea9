"""Merging of the detections of overlapping tiles.

Non-maximum suppression alone keeps parts of objects: a tile that cuts an object sees a part, whose IoU with the
complete box is small. Such a detection touches a border of its tile inside the image. It belongs to a detection of
another tile if both agree in the intersection of the two tiles, which both have seen.

Legend: n detections of all tiles, C of them cut, M x M the grid of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from afictl.data.tiles import Tile
from afictl.detectors.head import Detections

_BORDER_FRACTION = 0.1
"""Of the side of a box: a box that ends nearer to the border of its tile may be cut by it."""
_CHUNK = 256
"""Cut detections that are compared with all complete ones at a time."""


def merge_tiles(
    detections: Sequence[Detections], tiles: Sequence[Tile], size_hw: tuple[int, int], threshold: float, limit: int
) -> Detections:
    """Detections of an image from those of its tiles.

    A cut detection is assigned to the detection of the same class, in another tile, with the largest IoU inside the
    intersection of both tiles, if it reaches ``threshold``: to a complete one, which keeps its box and mask, or else to
    a cut one, with which it forms a union. The score is the largest. Then non-maximum suppression per class takes place
    over all.

    Args:
        detections: of each tile, in its pixels: ``boxes``, ``labels``, ``scores`` and optionally ``mask_probs``
            (n, M, M) and ``mask_scores``.
        tiles: at least one; the whole image may be one of them.
        size_hw: of the image.
        threshold: IoU.
        limit: largest number of detections.

    Returns:
        The same keys, in pixels of the image, best first.
    """
    candidates = _collect(detections, tiles)
    is_cut = _are_cut(candidates, size_hw)
    complete = candidates.select(~is_cut)
    cut = _assign(candidates.select(is_cut), complete, threshold)
    merged = complete.append(_unite(cut, threshold))
    values = merged.values
    best = batched_nms(values["boxes"], values["scores"], values["labels"], threshold)[:limit]
    return {name: value[best] for name, value in values.items()}


class _Candidates(NamedTuple):
    """Detections with the rectangle of the image that their tile covers."""

    values: Detections
    """In pixels of the image."""
    regions: Tensor
    """(n, 4) xyxy."""

    def select(self, rows: Tensor) -> _Candidates:
        return _Candidates({name: value[rows] for name, value in self.values.items()}, self.regions[rows])

    def append(self, other: _Candidates) -> _Candidates:
        values = {name: torch.cat((value, other.values[name])) for name, value in self.values.items()}
        return _Candidates(values, torch.cat((self.regions, other.regions)))

    def agreement(self, boxes: Tensor, labels: Tensor, regions: Tensor) -> Tensor:
        """IoU (k, n) with k boxes inside both tiles; 0 for another class or the same tile."""
        regions, boxes = regions[:, None], boxes[:, None]
        common = _intersect(self.regions, regions)
        first, second = _intersect(self.values["boxes"], common), _intersect(boxes, common)
        shared = _area(_intersect(first, second))
        ious = shared / (_area(first) + _area(second) - shared).clamp(min=1e-6)
        is_candidate = (self.values["labels"] == labels[:, None]) & (self.regions != regions).any(dim=-1)
        return torch.where(is_candidate, ious, 0.0)


def _collect(detections: Sequence[Detections], tiles: Sequence[Tile]) -> _Candidates:
    values = {name: torch.cat([detection[name] for detection in detections]) for name in detections[0]}
    rectangles = values["boxes"].new_tensor(tiles)
    counts = torch.tensor([len(detection["boxes"]) for detection in detections], device=rectangles.device)
    regions = rectangles.repeat_interleave(counts, dim=0)
    return _Candidates({**values, "boxes": values["boxes"] + regions[:, [0, 1, 0, 1]]}, regions)


def _are_cut(candidates: _Candidates, size_hw: tuple[int, int]) -> Tensor:
    """Whether each box ends at a border of its tile that is none of the image, bool (n,)."""
    boxes, regions = candidates.values["boxes"], candidates.regions
    limits = regions.new_tensor([0, 0, size_hw[1], size_hw[0]])
    margins = _BORDER_FRACTION * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return ((regions != limits) & ((boxes - regions).abs() <= margins)).any(dim=1)


def _assign(cut: _Candidates, complete: _Candidates, threshold: float) -> _Candidates:
    """The cut detections that belong to no complete one; the others raise the score of theirs, in place."""
    if not len(complete.regions) or not len(cut.regions):
        return cut
    columns = (cut.values["boxes"], cut.values["labels"], cut.regions)
    chunks = zip(*(column.split(_CHUNK) for column in columns), strict=True)
    overlaps = [complete.agreement(*chunk).max(dim=1) for chunk in chunks]
    best = torch.cat([indices for _, indices in overlaps])
    belongs = torch.cat([values for values, _ in overlaps]) >= threshold
    complete.values["scores"].scatter_reduce_(0, best[belongs], cut.values["scores"][belongs], "amax")
    return cut.select(~belongs)


def _unite(cut: _Candidates, threshold: float) -> _Candidates:
    """The unions of cut detections that belong together."""
    cut = cut.select(cut.values["scores"].argsort(descending=True, stable=True))
    is_free = torch.ones(len(cut.regions), dtype=torch.bool, device=cut.regions.device)
    for k in range(len(cut.regions)):
        while is_free[k]:
            row = slice(k, k + 1)
            (overlaps,) = cut.agreement(cut.values["boxes"][row], cut.values["labels"][row], cut.regions[row])
            overlaps[: k + 1] = 0
            overlap, part = torch.where(is_free, overlaps, 0.0).max(dim=0)
            if overlap < threshold:
                break
            is_free[part] = False
            _unite_pair(cut, k, int(part))
    return cut.select(is_free)


def _unite_pair(cut: _Candidates, k: int, part: int) -> None:
    """Extend detection ``k`` to the union with ``part``, in place."""
    boxes, values = cut.values["boxes"], cut.values
    union = _unite_boxes(boxes[k], boxes[part])
    if "mask_probs" in values:
        masks = [_regrid(values["mask_probs"][i], boxes[i], union) for i in (k, part)]
        values["mask_probs"][k] = torch.maximum(*masks)
    if "mask_scores" in values:
        values["mask_scores"][k] = values["mask_scores"][[k, part]].max()
    boxes[k], cut.regions[k] = union, _unite_boxes(cut.regions[k], cut.regions[part])


def _regrid(probs: Tensor, box: Tensor, new_box: Tensor) -> Tensor:
    """Probabilities (M, M) on the grid of ``box``, sampled on that of a larger box; 0 outside ``box``."""
    size = probs.shape[-1]
    steps = (torch.arange(size, device=probs.device) + 0.5) / size
    axes = [
        (new_box[i] + steps * (new_box[i + 2] - new_box[i]) - box[i]) / (box[i + 2] - box[i]) * 2 - 1 for i in (0, 1)
    ]
    grid = torch.stack((axes[0].expand(size, -1), axes[1][:, None].expand(-1, size)), dim=-1)
    sampled = F.grid_sample(probs.float()[None, None], grid[None].float(), align_corners=False, padding_mode="border")
    inside = (grid.abs() <= 1).all(dim=-1)
    return torch.where(inside, sampled[0, 0], 0.0).to(probs)


def _intersect(boxes: Tensor, limits: Tensor) -> Tensor:
    """Intersections of boxes xyxy (..., 4); without one, a side is not positive."""
    corners = (torch.maximum(boxes[..., :2], limits[..., :2]), torch.minimum(boxes[..., 2:], limits[..., 2:]))
    return torch.cat(torch.broadcast_tensors(*corners), dim=-1)


def _unite_boxes(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat((torch.minimum(first[:2], second[:2]), torch.maximum(first[2:], second[2:])))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
