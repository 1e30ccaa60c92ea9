"""Anchors as detectron2 places them.

Legend: A anchors a position, Hi x Wi the map of level i. Boxes are (x1, y1, x2, y2) in pixels of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class FixedStrideAnchors(AnchorGenerator):
    """One anchor size a level and every ratio, centred on multiples of the level's stride.

    Differs from torchvision in two things that detectron2's weights depend on: cell anchors are not rounded
    (a 32 px anchor of ratio 0.5 is 45.25 x 22.63, not 46 x 22), and strides are given, not ``image // map``
    (which is 61 rather than 64 at p6 of an 800 px side).

    Args:
        sizes: square root of the anchor area in pixels, one for each level.
        ratios: height divided by width.
        strides: pixels between neighbours of each level.
    """

    def __init__(self, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[int]) -> None:
        self.strides = tuple(strides)
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(self.strides))

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """(scales * ratios, 4) anchors around the origin, not rounded."""
        heights = torch.tensor([s * r**0.5 for r in aspect_ratios for s in scales], dtype=dtype, device=device)
        widths = torch.tensor([s / r**0.5 for r in aspect_ratios for s in scales], dtype=dtype, device=device)
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image the anchors of all levels, (sum Hi * Wi * A, 4), position-major within a level."""
        # float32 also for half-precision maps: bfloat16 resolves no pixel beyond 256.
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        sizes = [list(feature.shape[-2:]) for feature in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)
