"""Batch norm over all devices: training on two devices equals training on one."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn


class _SumOverRanks(torch.autograd.Function):
    """The sum of all ranks' values on each of them, through which gradients flow back to every rank.

    ``torch.distributed.nn.functional.all_reduce`` does the same and is deprecated, in favour of a private module.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Each rank's loss depends on these values through its own copy of the sum."""
        return _SumOverRanks.apply(gradient)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all ranks together, on any device.

    torch's own SyncBatchNorm refuses CPU tensors. Without it, training on two devices would not equal training on one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N,C,h,w)."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        dims = (0, 2, 3)
        count = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        total = _SumOverRanks.apply(torch.cat([values.sum(dims), count]))
        if total[-1] == 0:  # a head may have no region on any rank
            return (values * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(value, momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class CudaSyncedBatchNorm2d(nn.SyncBatchNorm):
    """torch's batch norm over all ranks, for a rank without a single region too."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N,C,h,w); no N at all answers in float32."""
        # torch lets a rank without values speak in its input's dtype, under bfloat16 autocast half as many bytes as
        # the float32 statistics that the others gather.
        return super().forward(input if input.numel() else input.float())


def synchronize_norms(fabric: Fabric, module: nn.Module) -> None:
    """Let every trainable batch norm inside ``module`` use the statistics of all ranks, if there are several.

    Parameters, their names and the norms of frozen statistics stay.
    """
    if fabric.world_size == 1:
        return
    kind = CudaSyncedBatchNorm2d if fabric.device.type == "cuda" else SyncedBatchNorm2d
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced: nn.Module = kind(child.num_features, child.eps, child.momentum or 0.1)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.requires_grad_(child.weight.requires_grad))
        else:
            synchronize_norms(fabric, child)
