"""SAPA-B: an enlarged pixel is a mean of the coarse neighbours that resemble the fine pixel at its place.

Lu et al., "SAPA: Similarity-aware point affiliation for feature upsampling", https://arxiv.org/abs/2209.12866; of its
variants the one with a bilinear similarity.
Shapes: N images, C channels, H x W the coarse map, E embedding channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from afictl.interpolators.fine_maps import pad_fine, require_fine
from afictl.interpolators.initialise import zero_biases
from afictl.interpolators.options import check_options
from afictl.interpolators.reassembly import reassemble, similarities


class Sapa(nn.Module):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W) that needs the fine map.

    A neighbour outside the map has similarity and value zero.

    Args:
        channels: C of both maps.
        up_kernel: an enlarged pixel is a mean of so many by so many coarse neighbours, odd.
        embedding_channels: E, in which pixels are compared. 32 is what the paper's tables count: with one module for
            each of the three steps of Faster R-CNN 0.05 M parameters, in SegFormer 1.02 G multiply-adds (64, the
            default of the authors' code, would be 0.10 M and 1.66 G).

    Raises:
        UserError: an option that is not a positive (odd) number.
    """

    kind = "sapa"

    def __init__(self, channels: int, up_kernel: int = 5, embedding_channels: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.options: dict[str, Any] = {"up_kernel": up_kernel, "embedding_channels": embedding_channels}
        check_options(self.kind, self.options, odd=("up_kernel",))
        self.norm_fine = nn.LayerNorm(channels)
        self.norm_coarse = nn.LayerNorm(channels)
        self.embed_fine = nn.Linear(channels, embedding_channels)
        self.embed_coarse = nn.Linear(channels, embedding_channels)
        self._size = up_kernel
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
        queries = _at_every_pixel(fine, self.norm_fine, self.embed_fine)
        keys = _at_every_pixel(coarse, self.norm_coarse, self.embed_coarse)
        kernels = similarities(pad_fine(queries, coarse), keys, self._size).softmax(dim=1)
        return reassemble(coarse, kernels)


def _at_every_pixel(x: Tensor, norm: nn.Module, embed: nn.Module) -> Tensor:
    """(N, C, H, W) -> (N, E, H, W)."""
    return embed(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
