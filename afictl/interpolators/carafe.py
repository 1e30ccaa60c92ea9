"""CARAFE: every enlarged pixel is a weighted mean of its coarse neighbours, with weights that a small network predicts.

Wang et al., "CARAFE: Content-aware reassembly of features", https://arxiv.org/abs/1905.02188.
Legend: N images, C channels, H x W the coarse map, k the size of the predicted kernels.
"""

from __future__ import annotations

from torch import Tensor, nn

from afictl.interpolators.base import Interpolator, zero_biases
from afictl.interpolators.reassembly import normalise_kernels, reassemble


class CARAFE(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W.

    A fresh one is close to a 5 x 5 mean, as published. Outside the map there are zeros.

    Memory at 256 x 100 x 168, in units of the output: a peak of 1.2 without gradients, the output included. For the
    backward pass 0.16 are saved beside the input: the compressed map and the kernels. That pass has a peak of 2.8, of
    which 2 are the output and its gradient.

    Args:
        channels: C of the maps.
        up_kernel: k, odd.
        encoder_kernel: size of the convolution that predicts the kernels, odd.
        compressed_channels: width of the network that predicts them.

    Raises:
        UserError: an option that is not a positive (odd) number.
    """

    kind = "carafe"
    odd_options = ("up_kernel", "encoder_kernel")

    def __init__(
        self, channels: int, up_kernel: int = 5, encoder_kernel: int = 3, compressed_channels: int = 64
    ) -> None:
        super().__init__(
            channels, up_kernel=up_kernel, encoder_kernel=encoder_kernel, compressed_channels=compressed_channels
        )
        self.compress = nn.Conv2d(channels, compressed_channels, 1)
        self.encode = nn.Conv2d(compressed_channels, 4 * up_kernel**2, encoder_kernel, padding=encoder_kernel // 2)
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        return reassemble(coarse, self.kernels(coarse))

    def kernels(self, coarse: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, k * k, 4, H, W), float32 and of sum one over the k * k neighbours."""
        return normalise_kernels(self.encode(self.compress(coarse)).unflatten(1, (-1, 4)))
