"""DLU: CARAFE whose kernels are sampled from one kernel for each coarse pixel, at points that a convolution moves.

Fu et al., "Lighten CARAFE: Dynamic lightweight upsampling with guided reassemble kernels",
https://arxiv.org/abs/2410.22139.
Legend: N images, C channels, H x W the coarse map, k the size of the predicted kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators.base import Interpolator, zero_biases
from afictl.interpolators.reassembly import normalise_kernels, reassemble, to_planes
from afictl.interpolators.sampling import moved_centres, sample


class DLU(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W.

    A fresh one is close to a k x k mean, as CARAFE. Outside the map there are zeros; kernels are replicated there.

    Args:
        channels: C of the maps.
        up_kernel: k, odd.
        encoder_kernel: size of the convolutions that predict kernels and offsets, odd.
        compressed_channels: width of the network that predicts them.

    Raises:
        UserError: an option that is not a positive (odd) number.
    """

    kind = "dlu"
    odd_options = ("up_kernel", "encoder_kernel")

    def __init__(
        self, channels: int, up_kernel: int = 5, encoder_kernel: int = 3, compressed_channels: int = 64
    ) -> None:
        super().__init__(
            channels, up_kernel=up_kernel, encoder_kernel=encoder_kernel, compressed_channels=compressed_channels
        )
        size, padding = encoder_kernel, encoder_kernel // 2
        self.compress = nn.Conv2d(channels, compressed_channels, 1)
        self.encode = nn.Conv2d(compressed_channels, up_kernel**2, size, padding=padding)
        # x and y for each of the four fine pixels of a coarse one
        self.offset = nn.Conv2d(compressed_channels, 2 * 4, size, padding=padding)
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        nn.init.normal_(self.offset.weight, std=0.001)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused.

        Where an offset is not finite, the map of its image is NaN.
        """
        return reassemble(coarse, self.kernels(coarse))

    def kernels(self, coarse: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, k * k, 4, H, W), float32 and of sum one over the k * k neighbours."""
        height, width = coarse.shape[-2:]
        compressed = self.compress(coarse)
        offset = F.pixel_shuffle(self.offset(compressed), 2)
        offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        points = moved_centres(offset, (height, width), scale=2)
        return normalise_kernels(to_planes(sample(self.encode(compressed), points), 2))
