"""Interpolators without parameters: the usual choices that a learned one is compared with.

Shapes: N images, C channels, H x W the coarse map.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class FixedInterpolator(nn.Module):
    """Enlarge (N, C, H, W) to (N, C, 2H, 2W) by PyTorch's rule of that name (corners not aligned).

    Args:
        kind: ``nearest``, ``bilinear`` or ``bicubic``.
        channels: C, kept for information; any map is accepted.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.channels = channels
        self.options: dict[str, Any] = {}
        self._align_corners = None if kind == "nearest" else False

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is not looked at."""
        return F.interpolate(coarse, scale_factor=2.0, mode=self.kind, align_corners=self._align_corners)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return self.kind
