"""Mask scoring: a head that predicts the IoU of each mask with its object, by which masks are ranked.

Mask Scoring R-CNN (Huang et al., https://arxiv.org/abs/1903.00241), also a part of CenterMask.
Legend: R regions, K classes without background, M x M the mask grid (28 x 28), P x P pooled regions (14 x 14).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from afictl.interpolators.base import zero_biases
from afictl.total_batch import loss_divisor


class MaskScorer(nn.Module):
    """Pooled region and its mask -> predicted IoU of the mask with the object for each class, (R, K) float32.

    Four 3x3 convolutions, the last with stride 2, and two hidden linear layers, initialised like those of mask and box
    heads.

    Args:
        channels: of a pooled region.
        pooled: P, even.
        width: channels of the convolutions.
        fc_width: width of the hidden layers.
        num_classes: K.
    """

    def __init__(self, channels: int, pooled: int, width: int, fc_width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, stride in ((channels + 1, 1), (width, 1), (width, 1), (width, 2)):
            layers += [nn.Conv2d(inputs, width, 3, stride, padding=1), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.hidden = TwoMLPHead(width * (pooled // 2) ** 2, fc_width)
        self.iou = nn.Linear(fc_width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=1)
        nn.init.normal_(self.iou.weight, std=0.01)
        zero_biases(self)

    def forward(self, pooled: Tensor, mask_probs: Tensor) -> Tensor:
        """IoU for each class, not yet limited to 0..1.

        Args:
            pooled: (R, channels, P, P).
            mask_probs: (R, 2P, 2P) probabilities for the class of each region.
        """
        masks = F.max_pool2d(mask_probs[:, None], 2).to(pooled.dtype)
        return self.iou(self.hidden(self.convs(torch.cat((pooled, masks), dim=1)))).float()


def visible_fractions(masks: Tensor, boxes: Tensor, matches: Tensor) -> Tensor:
    """Fraction of the object's area inside each box, float32 (R,) in 0..1; pixels on the edge of a box count in part.

    Args:
        masks: (G, H, W) bitmaps of the image's objects, 0 or 1, any dtype.
        boxes: (R, 4) pixels.
        matches: (R,) int64, index of the object of each box.
    """
    rows = _pixel_overlaps(boxes[:, 1], boxes[:, 3], masks.shape[1])
    columns = _pixel_overlaps(boxes[:, 0], boxes[:, 2], masks.shape[2])
    fractions = rows.new_zeros(len(boxes))
    # One object at a time, as for the targets of masks. Half-precision products could not count its pixels.
    with torch.autocast(masks.device.type, enabled=False):
        for index in matches.unique().tolist():
            is_match = matches == index
            bitmap = masks[index].float()
            inside = ((rows[is_match] @ bitmap) * columns[is_match]).sum(dim=1)
            fractions[is_match] = inside / bitmap.sum().clamp(min=1)
    return fractions


def _pixel_overlaps(low: Tensor, high: Tensor, size: int) -> Tensor:
    """Fraction of each of ``size`` pixels that lies between ``low`` and ``high``, (R, size) in 0..1."""
    starts = torch.arange(size, device=low.device, dtype=torch.float32)
    return (torch.minimum(high[:, None], starts + 1) - torch.maximum(low[:, None], starts)).clamp(min=0)


def mask_ious(predicted: Tensor, targets: Tensor, fractions: Tensor) -> Tensor:
    """IoU of masks with complete objects, including their parts outside the boxes, float32 (R,).

    Args:
        predicted: bool (R, M, M).
        targets: (R, M, M) of 0 and 1, the objects inside the boxes.
        fractions: (R,) of the object inside each box.
    """
    predicted, targets = predicted.flatten(1).float(), targets.flatten(1).float()
    overlap = (predicted * targets).sum(dim=1)
    objects = targets.sum(dim=1) / fractions.clamp(min=1e-6)
    union = predicted.sum(dim=1) + objects - overlap
    return overlap / union.clamp(min=1)


def mask_score_loss(predicted: Tensor, ious: Tensor) -> Tensor:
    """Half the squared error, the mean over the masks of all ranks that touch their object; zero without any.

    Args:
        predicted: (R,) IoU for the class of each region.
        ious: (R,) target; no gradient.
    """
    touching = ious > 0
    errors = 0.5 * (predicted - ious.detach()) ** 2 * touching
    return errors.sum() / loss_divisor(touching.sum(), errors)
