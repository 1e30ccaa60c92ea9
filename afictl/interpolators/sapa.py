"""SAPA-B: an enlarged pixel is a mean of its coarse neighbours, weighted by their similarity to the fine pixel.

Lu et al., "SAPA: Similarity-aware point affiliation for feature upsampling", https://arxiv.org/abs/2209.12866; of its
variants the one with a bilinear similarity.
Legend: N images, C channels, H x W the coarse map, E embedding channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from afictl.interpolators.base import Interpolator, pad_fine, require_fine, zero_biases
from afictl.interpolators.reassembly import normalise_kernels, reassemble, similarities


class SAPA(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W) that needs the fine map.

    A neighbour outside the map has similarity and value zero.

    Args:
        channels: C of both maps.
        up_kernel: k, odd: an enlarged pixel is a mean of k x k coarse neighbours.
        embedding_channels: E, in which pixels are compared. 32 is the value of the paper's tables: with one module for
            each of the three steps of Faster R-CNN 0.05 M parameters, in SegFormer 1.02 G multiply-adds (64, the
            default of the authors' code, would be 0.10 M and 1.66 G).

    Raises:
        UserError: an option that is not a positive (odd) number.
    """

    kind = "sapa"
    needs_fine = True
    odd_options = ("up_kernel",)

    def __init__(self, channels: int, up_kernel: int = 5, embedding_channels: int = 32) -> None:
        super().__init__(channels, up_kernel=up_kernel, embedding_channels=embedding_channels)
        self.norm_fine = nn.LayerNorm(channels)
        self.norm_coarse = nn.LayerNorm(channels)
        self.embed_fine = nn.Linear(channels, embedding_channels)
        self.embed_coarse = nn.Linear(channels, embedding_channels)
        self._kernel_size = up_kernel
        nn.init.trunc_normal_(self.embed_fine.weight, std=0.02)
        nn.init.trunc_normal_(self.embed_coarse.weight, std=0.02)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold.

        Args:
            fine: (N, C, 2H or 2H - 1, 2W or 2W - 1).

        Raises:
            UserError: no ``fine``, or one of another size.
        """
        fine = require_fine(self.kind, coarse, fine)
        queries = _embed_pixels(fine, self.norm_fine, self.embed_fine)
        keys = _embed_pixels(coarse, self.norm_coarse, self.embed_coarse)
        logits = similarities(pad_fine(queries, coarse), keys, self._kernel_size)
        return reassemble(coarse, normalise_kernels(logits))


def _embed_pixels(x: Tensor, norm: nn.Module, embed: nn.Module) -> Tensor:
    """(N, C, H, W) -> (N, E, H, W)."""
    return embed(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
