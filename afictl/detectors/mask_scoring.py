"""Mask scoring: a head that predicts how well each mask covers its object, so that masks are ranked by that too.

Mask Scoring R-CNN (Huang et al., https://arxiv.org/abs/1903.00241), also a part of CenterMask.
Legend: R regions, K classes without background, M x M the mask grid (28 x 28), P x P pooled regions (14 x 14).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead


class MaskScorer(nn.Module):
    """Pooled region and its mask -> the mask's IoU with the object, were it of each class, (R, K) float32.

    Four 3x3 convolutions, the last with stride 2, and two hidden linear layers, initialised as those of mask and
    box heads.

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
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=1)
        nn.init.normal_(self.iou.weight, std=0.01)
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)

    def forward(self, pooled: Tensor, mask_probs: Tensor) -> Tensor:
        """IoU for each class, not yet limited to 0..1.

        Args:
            pooled: (R, channels, P, P).
            mask_probs: (R, 2P, 2P) probabilities of the region's own class.
        """
        masks = F.max_pool2d(mask_probs[:, None], 2).to(pooled.dtype)
        return self.iou(self.hidden(self.convs(torch.cat((pooled, masks), dim=1)))).float()


def visible_shares(masks: Tensor, boxes: Tensor, matched: Tensor) -> Tensor:
    """Which part of its object's area each box holds, float32 (R,) in 0..1; pixels on its edge count in part.

    Args:
        masks: (G, H, W) bitmaps of the image's objects, 0 or 1, any dtype.
        boxes: (R, 4) pixels.
        matched: (R,) int64, the object of each box.
    """
    rows = _overlaps(boxes[:, 1], boxes[:, 3], masks.shape[1])
    columns = _overlaps(boxes[:, 0], boxes[:, 2], masks.shape[2])
    shares = rows.new_zeros(len(boxes))
    # One object at a time, as for the targets of masks. Half-precision products could not count its pixels.
    with torch.autocast(masks.device.type, enabled=False):
        for index in matched.unique().tolist():
            mine = matched == index
            bitmap = masks[index].float()
            inside = ((rows[mine] @ bitmap) * columns[mine]).sum(dim=1)
            shares[mine] = inside / bitmap.sum().clamp(min=1)
    return shares


def _overlaps(low: Tensor, high: Tensor, size: int) -> Tensor:
    """How much of each of ``size`` pixels lies between ``low`` and ``high``, (R, size) in 0..1."""
    starts = torch.arange(size, device=low.device, dtype=torch.float32)
    return (torch.minimum(high[:, None], starts + 1) - torch.maximum(low[:, None], starts)).clamp(min=0)


def mask_ious(predicted: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """IoU of masks with whole objects, also with what of them lies outside the boxes, float32 (R,).

    Args:
        predicted: bool (R, M, M).
        targets: (R, M, M) of 0 and 1, the objects inside the boxes.
        shares: (R,) the part of its object that each box holds.
    """
    predicted, targets = predicted.flatten(1).float(), targets.flatten(1).float()
    overlap = (predicted * targets).sum(dim=1)
    objects = targets.sum(dim=1) / shares.clamp(min=1e-6)
    union = predicted.sum(dim=1) + objects - overlap
    return overlap / union.clamp(min=1)


def mask_score_loss(predicted: Tensor, ious: Tensor) -> Tensor:
    """Half the squared error, the mean over masks that touch their object; zero, with a gradient, without any.

    Args:
        predicted: (R,) of the region's own class.
        ious: (R,) what it should be; no gradient.
    """
    touching = ious > 0
    errors = 0.5 * (predicted - ious.detach()) ** 2 * touching
    return errors.sum() / touching.sum().clamp(min=1)
