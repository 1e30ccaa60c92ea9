"""Dropout over all ranks: an image loses the same paths on any number of devices."""

from __future__ import annotations

from lightning_fabric import Fabric
from timm.layers import DropBlock2d, DropPath
from torch import Tensor, nn

_FUSED = "attn_drop"
"""Name of timm's dropout of attention weights, whose rate alone is read by the fused attention."""


class SyncedDropout(nn.Module):
    """A dropout that draws for the images of all ranks and applies the factors of its own.

    Every rank draws the same numbers, as training seeds all of them equally.

    Args:
        dropout: multiplies its input (n, ...) by random factors: one for each of n, or for each element.
        rank: of this process.
        world_size: number of ranks; all have an input of the same shape.
    """

    def __init__(self, dropout: nn.Module, rank: int, world_size: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.rank = rank
        self.world_size = world_size

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (n, ...) with its part of the factors."""
        if not self.training:
            return x
        n = len(x)
        trailing = [1] * (x.ndim - 1) if isinstance(self.dropout, DropPath) else x.shape[1:]
        factors: Tensor = self.dropout(x.new_ones(n * self.world_size, *trailing))
        return x * factors[self.rank * n : (self.rank + 1) * n]


def synchronize_dropouts(fabric: Fabric, module: nn.Module) -> None:
    """Replace every dropout inside ``module`` by one over all ranks, if there are several.

    Dropout of attention weights stays as it is, see ``results_depend_on_ranks``.
    """
    if fabric.world_size == 1:
        return
    for name, child in module.named_children():
        if isinstance(child, DropPath | DropBlock2d | nn.Dropout) and name != _FUSED:
            setattr(module, name, SyncedDropout(child, fabric.global_rank, fabric.world_size))
        else:
            synchronize_dropouts(fabric, child)
