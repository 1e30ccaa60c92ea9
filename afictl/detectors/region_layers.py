"""Layers on regions of interest: detectron2's pooling, and its hidden and output layers for classes, boxes and masks.

Legend: R regions of a batch, K classes without background, M x M the mask grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from afictl.interpolators.base import zero_biases


class AlignedRoIPool(MultiScaleRoIAlign):
    """Pool each region from the level that fits its size, (R, C, size, size).

    detectron2's ROIAlignV2: aligned (no half-pixel shift), as many samples as a bin has pixels, and given
    scales; torchvision pools unaligned with 2 x 2 samples and guesses the scales from the image sizes.
    """

    def __init__(self, strides: Mapping[str, int], size: int) -> None:
        super().__init__(list(strides), size, sampling_ratio=0)
        self.scales = [1 / stride for stride in strides.values()]
        levels = [stride.bit_length() - 1 for stride in strides.values()]
        self.map_levels = initLevelMapper(levels[0], levels[-1])

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the ``boxes`` of each image, (n, 4) pixels, one image after the other."""
        images = torch.cat([box.new_full((box.shape[0], 1), i) for i, box in enumerate(boxes)])
        regions = torch.cat((images, torch.cat(boxes)), dim=1).float()
        levels = self.levels(boxes, image_shapes)
        first = x[self.featmap_names[0]]
        pooled = first.new_zeros((regions.shape[0], first.shape[1], *self.output_size))
        for level, (name, scale) in enumerate(zip(self.featmap_names, self.scales, strict=True)):
            indices = torch.where(levels == level)[0]
            # RoIAlign computes in float32: positions in a half-precision map would be off by pixels.
            level_regions = roi_align(x[name].float(), regions[indices], self.output_size, scale, aligned=True)
            pooled[indices] = level_regions.to(pooled.dtype)
        return pooled

    def levels(self, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Index of the level of each region, (R,), by its size in pixels; ``image_shapes`` are unused."""
        return self.map_levels(boxes)


class BoxPredictor(nn.Module):
    """(R, width) -> class logits (R, 1 + K), background first, and box deltas (R, 4B), both float32.

    B is K, or 1 where ``class_agnostic``: one box for all classes.
    """

    def __init__(self, width: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, 1 + num_classes)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        zero_biases(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of the regions ``x``."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class MaskPredictor(nn.Module):
    """(R, width, M/2, M/2) -> mask logits (R, K, M, M), float32."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)
        zero_biases(self)

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits of the regions ``x``."""
        return self.logits(F.relu(self.deconv(x))).float()


def build_box_head(
    channels: int, size: int, fc_width: int, *, kind: Literal["2fc", "4conv1fc"], norm: Literal["none", "batch"]
) -> nn.Module:
    """Hidden layers on a pooled region, (R, channels, size, size) -> (R, fc_width), initialised as detectron2's.

    Two linear layers (``2fc``), or four 3x3 convolutions of ``channels`` channels and one linear layer (``4conv1fc``).
    """
    head: nn.Module
    if kind == "4conv1fc":
        head = FastRCNNConvFCHead((channels, size, size), [channels] * 4, [fc_width], _norm_layer(norm))
    else:
        head = TwoMLPHead(channels * size**2, fc_width)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
    zero_biases(head)
    return head


def build_mask_head(channels: int, width: int, *, norm: Literal["none", "batch"]) -> MaskRCNNHeads:
    """Four 3x3 convolutions of ``width`` channels on a pooled region."""
    return MaskRCNNHeads(channels, (width,) * 4, dilation=1, norm_layer=_norm_layer(norm))


def _norm_layer(norm: Literal["none", "batch"]) -> type[nn.BatchNorm2d] | None:
    return nn.BatchNorm2d if norm == "batch" else None
