"""Modules that are exported: one image in, tensors out.

Legend: H x W the image, n detections, M x M the grid of a mask, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.detectors import Detector
from afictl.detectors.head import Detections, HeadWithMasks, ImageBatch


class DetectorGraph(nn.Module):
    """A detector with its normalisation, padding and suppression; its numbers are those of the ``Detector``.

    ``names`` are those of the outputs, in order: ``boxes`` float32 (n, 4) xyxy in pixels of the image, ``labels``
    int64 (n,) in 1..K, ``scores`` float32 (n,) best first, with masks ``masks`` bool (n, H, W), and with mask scoring
    ``mask_scores`` float32 (n,).

    Args:
        detector: in eval mode.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        scored = hasattr(detector.head, "mask_scorer")
        self.names = ("boxes", "labels", "scores", *(["masks"] * detector.has_masks), *(["mask_scores"] * scored))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs for one ``image``, float32 (3, H, W), RGB in 0..1."""
        detector, size_hw = self.detector, (image.shape[1], image.shape[2])
        batch = ImageBatch(self._padded(image)[None], [size_hw])
        features = detector.neck(detector.backbone(batch.tensor))
        detections = detector.head.detect(batch, features)
        if isinstance(detector.head, HeadWithMasks) and detector.has_masks:
            detections = detector.head.segment(batch, features, detections)
        return self._outputs(detections[0], size_hw)

    def _padded(self, image: Tensor) -> Tensor:
        """The normalised image, with zeros on the right and at the bottom, as from ``Detector.batch``."""
        divisor = self.detector.neck.size_divisor
        bottom, right = ((side + divisor - 1) // divisor * divisor - side for side in image.shape[1:])
        normalised = (image - self.detector.pixel_mean) / self.detector.pixel_std
        return F.pad(normalised, (0, right, 0, bottom))

    def _outputs(self, detections: Detections, size_hw: tuple[int, int]) -> tuple[Tensor, ...]:
        values = dict(detections)
        if "mask_probs" in values:
            values["masks"] = paste_in_graph(values["mask_probs"], values["boxes"], size_hw)
        return tuple(values[name] for name in self.names)


def paste_in_graph(mask_probs: Tensor, boxes: Tensor, size_hw: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """``masks.paste_masks`` without a loop over boxes or numbers of Python: bool (n, H, W).

    Bilinear weights are products of those of rows and columns, so that the mask is a product of three matrices.
    """
    size = mask_probs.shape[-1]
    rows = _bilinear_weights(boxes[:, 1], boxes[:, 3], size_hw[0], size)
    columns = _bilinear_weights(boxes[:, 0], boxes[:, 2], size_hw[1], size)
    return rows @ mask_probs @ columns.transpose(1, 2) >= threshold


def _bilinear_weights(low: Tensor, high: Tensor, pixels: int, size: int) -> Tensor:
    """Weight of each of ``size`` cells between ``low`` and ``high`` (n,) at each pixel centre, (n, pixels, size)."""
    centres = torch.arange(pixels, dtype=torch.float32, device=low.device) + 0.5
    cells = torch.arange(size, dtype=torch.float32, device=low.device)
    positions = (centres - low[:, None]) / (high - low)[:, None] * size - 0.5
    return F.relu(1 - (positions[:, :, None] - cells).abs())
