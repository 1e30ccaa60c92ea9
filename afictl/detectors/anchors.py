"""Anchors at the positions of detectron2.

Legend: A anchors per position, Hi x Wi the map of level i. Boxes are (x1, y1, x2, y2) in pixels of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class FixedStrideAnchors(AnchorGenerator):
    """Anchors of one or more sizes per level, each in every ratio, centred on multiples of the level's stride.

    Differs from torchvision in three things that detectron2's weights depend on: cell anchors are not rounded
    (a 32 px anchor of ratio 0.5 is 45.25 x 22.63, not 46 x 22), strides are given, not ``image // map`` (which
    is 61 rather than 64 at p6 of an 800 px side), and the A anchors of a position are all ratios of the first
    size, then of the next.

    Args:
        sizes: square root of the anchor area in pixels, one for each level.
        ratios: height divided by width.
        strides: pixels between neighbours of each level.
        per_octave: sizes per level, ``size * 2^(i / per_octave)``.
    """

    def __init__(
        self, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[int], per_octave: int = 1
    ) -> None:
        self.strides = tuple(strides)
        steps = [2 ** (i / per_octave) for i in range(per_octave)]
        levels = tuple(tuple(size * step for step in steps) for size in sizes)
        super().__init__(levels, (tuple(ratios),) * len(self.strides))

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """(scales * ratios, 4) anchors around the origin, not rounded."""
        heights = torch.tensor([s * r**0.5 for s in scales for r in aspect_ratios], dtype=dtype, device=device)
        widths = torch.tensor([s / r**0.5 for s in scales for r in aspect_ratios], dtype=dtype, device=device)
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The anchors of each of the ``maps`` (N, C, Hi, Wi), (Hi * Wi * A, 4), position-major."""
        # float32 also for half-precision maps: bfloat16 resolves no pixel beyond 256.
        self.set_cell_anchors(torch.float32, maps[0].device)
        sizes = [list(value.shape[-2:]) for value in maps]
        return self.grid_anchors(sizes, [[stride, stride] for stride in self.strides])

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image the anchors of all levels, (sum Hi * Wi * A, 4)."""
        return [torch.cat(self.levels(feature_maps))] * len(image_list.image_sizes)
