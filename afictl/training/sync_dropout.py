"""Dropout over the total batch: an image loses the same paths on any number of devices and of micro-batches."""

from __future__ import annotations

from lightning_fabric import Fabric
from timm.layers import DropBlock2d, DropPath
from torch import Tensor, nn

from afictl.total_batch import share_of_total_batch

_FUSED = "attn_drop"
"""Name of timm's dropout of attention weights, whose rate alone is read by the fused attention."""


class SyncedDropout(nn.Module):
    """A dropout that draws for the images of the total batch and applies the factors of those of this pass.

    Every pass draws the same numbers, as training seeds all of them equally.

    Args:
        dropout: multiplies its input (n, ...) by random factors: one for each of n, or for each element. All shares of
            the total batch have an input of the same shape.
    """

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (n, ...) with its part of the factors."""
        if not self.training:
            return x
        n = len(x)
        trailing = [1] * (x.ndim - 1) if isinstance(self.dropout, DropPath) else x.shape[1:]
        share, shares = share_of_total_batch()
        factors: Tensor = self.dropout(x.new_ones(n * shares, *trailing))
        return x * factors[share * n : (share + 1) * n]


def synchronize_dropouts(fabric: Fabric, module: nn.Module, micro_batches: int = 1) -> None:
    """Replace every dropout inside ``module`` by one over the total batch, if it has several shares.

    Dropout of attention weights stays as it is, see ``process_dependence``.
    """
    if fabric.world_size * micro_batches == 1:
        return
    for name, child in module.named_children():
        if isinstance(child, DropPath | DropBlock2d | nn.Dropout) and name != _FUSED:
            setattr(module, name, SyncedDropout(child))
        else:
            synchronize_dropouts(fabric, child, micro_batches)
