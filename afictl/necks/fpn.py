"""Feature pyramid network (Lin et al., https://arxiv.org/abs/1612.03144) with any interpolator inside.

Initialisation and ``p6`` as in detectron2. Shapes: N images, C channels, H x W the image.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from afictl.necks.enlarge import enlarge_to


class FPN(nn.Module):
    """``res2..res5`` -> ``p2..p6``, all with the same number of channels.

    Args:
        in_channels: channels of ``res2..res5``.
        channels: C of every pyramid level.
        interpolator: one module for all three enlargements, called ``interpolator(coarse, fine)``.
        fuse: ``sum`` adds the enlarged map to the lateral one, ``avg`` halves that sum.
    """

    size_divisor = 32

    def __init__(
        self, in_channels: Mapping[str, int], channels: int, interpolator: nn.Module, fuse: str = "sum"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.strides = {f"p{i}": 2**i for i in range(2, 7)}
        self.interpolator = interpolator
        self.laterals = nn.ModuleDict({f"p{i}": nn.Conv2d(in_channels[f"res{i}"], channels, 1) for i in range(2, 6)})
        self.outputs = nn.ModuleDict({f"p{i}": nn.Conv2d(channels, channels, 3, padding=1) for i in range(2, 6)})
        self._share = {"sum": 1.0, "avg": 0.5}[fuse]
        self.laterals.apply(_initialise)
        self.outputs.apply(_initialise)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res{i}`` (N, c_i, H / 2^i, W / 2^i) -> ``p{i}`` (N, C, H / 2^i, W / 2^i), rounded up."""
        running = self.laterals["p5"](features["res5"])
        pyramid = {"p5": self.outputs["p5"](running)}
        for level in (4, 3, 2):
            lateral = self.laterals[f"p{level}"](features[f"res{level}"])
            running = (lateral + enlarge_to(self.interpolator, running, lateral)) * self._share
            pyramid[f"p{level}"] = self.outputs[f"p{level}"](running)
        pyramid["p6"] = F.max_pool2d(pyramid["p5"], kernel_size=1, stride=2)
        return dict(sorted(pyramid.items()))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
