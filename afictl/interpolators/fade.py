"""FADE: CARAFE with kernels that both maps predict, and a gate that lets details of the fine map through.

Lu et al., "FADE: Fusing the assets of decoder and encoder for task-agnostic upsampling",
https://arxiv.org/abs/2207.10392.
Legend: N images, C channels, H x W the coarse map, k the size of the predicted kernels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators.base import Interpolator, pad_fine, require_fine, zero_biases
from afictl.interpolators.reassembly import normalise_kernels, reassemble, to_planes


class FADE(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W) that needs the fine map and is mixed with it.

    Args:
        channels: C of both maps.
        up_kernel: k, odd.
        compressed_channels: width of the network that predicts the kernels.

    Raises:
        UserError: an option that is not a positive (odd) number.
    """

    kind = "fade"
    needs_fine = True
    odd_options = ("up_kernel",)

    def __init__(self, channels: int, up_kernel: int = 5, compressed_channels: int = 64) -> None:
        super().__init__(channels, up_kernel=up_kernel, compressed_channels=compressed_channels)
        self.compress_fine = nn.Conv2d(channels, compressed_channels, 1)
        self.compress_coarse = nn.Conv2d(channels, compressed_channels, 1, bias=False)
        self.encode = nn.Conv2d(compressed_channels, up_kernel**2, 3, padding=1)
        self.gate = nn.Conv2d(channels, 1, 1)
        for conv in (self.compress_fine, self.compress_coarse, self.encode, self.gate):
            nn.init.xavier_uniform_(conv.weight)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold.

        Args:
            fine: (N, C, 2H or 2H - 1, 2W or 2W - 1).

        Raises:
            UserError: no ``fine``, or one of another size.
        """
        fine = require_fine(self.kind, coarse, fine)
        kernels, gate = self.kernels(coarse, fine), self.gate(coarse).sigmoid()
        # (1 - gate) times a weighted sum is a sum with weights times (1 - gate), and there are fewer weights than
        # channels: the backward pass then need not save the sum itself.
        enlarged = reassemble(coarse, (1 - gate).to(kernels.dtype).unsqueeze(2) * kernels)
        gate = F.interpolate(gate, scale_factor=2.0, mode="nearest").to(enlarged.dtype)
        return enlarged.addcmul_(gate, pad_fine(fine, coarse).to(enlarged.dtype))

    def kernels(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Both maps -> (N, k * k, 4, H, W), float32 and of sum one over the k * k neighbours.

        The paper's semi-shift convolution: the same 3x3 convolution slides over the fine map pixel by pixel and over
        the coarse map, whose output the four fine pixels of a coarse one share.
        """
        fine_logits = to_planes(pad_fine(self.encode(self.compress_fine(fine)), coarse), 2)
        coarse_logits = self.encode(self.compress_coarse(coarse)).unsqueeze(2)
        return normalise_kernels(fine_logits + coarse_logits)
