"""Batch norm over all ranks, with which training on two devices equals training on one."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from afictl.backbones.norms import WithActivation
from afictl.distributed import all_reduce_sum


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the training statistics of all ranks, on any device.

    torch's SyncBatchNorm refuses CPU tensors.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N,C,h,w)."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        dims = (0, 2, 3)
        count = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        total = all_reduce_sum(torch.cat([values.sum(dims), count]))
        if total[-1] == 0:  # a head may have no region on any rank
            return (values * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean[:, None, None]
        variance = all_reduce_sum(centred.square().sum(dims)) / count
        self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(value, momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class CudaSyncedBatchNorm2d(nn.SyncBatchNorm):
    """torch's SyncBatchNorm that accepts a rank without values."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N,C,h,w); the result is float32 if N is 0."""
        # A rank without values gathers in the dtype of its input, under bfloat16 autocast half as many bytes as the
        # float32 statistics of the other ranks.
        return super().forward(input if input.numel() else input.float())


class SyncedBatchNormAct2d(WithActivation, SyncedBatchNorm2d):
    """``SyncedBatchNorm2d`` with the activation of timm's ``BatchNormAct2d``."""


class CudaSyncedBatchNormAct2d(WithActivation, CudaSyncedBatchNorm2d):
    """``CudaSyncedBatchNorm2d`` with the activation of timm's ``BatchNormAct2d``."""


def synchronize_batch_norms(fabric: Fabric, module: nn.Module) -> None:
    """Replace every 2-D batch norm of torch and timm inside ``module`` by one over all ranks, if there are several.

    Parameters, their names and frozen batch norms stay.
    """
    if fabric.world_size == 1:
        return
    kinds: dict[type[nn.Module], type[nn.Module]] = {
        nn.BatchNorm2d: SyncedBatchNorm2d, BatchNormAct2d: SyncedBatchNormAct2d
    }  # fmt: skip
    if fabric.device.type == "cuda":
        kinds = {nn.BatchNorm2d: CudaSyncedBatchNorm2d, BatchNormAct2d: CudaSyncedBatchNormAct2d}
    for name, child in module.named_children():
        kind = kinds.get(type(child))
        if kind and isinstance(child, nn.BatchNorm2d):
            synced = kind(child.num_features, child.eps, child.momentum or 0.1)
            synced.load_state_dict(child.state_dict())
            if isinstance(synced, WithActivation) and isinstance(child, BatchNormAct2d):
                synced.take_activation(child)
            setattr(module, name, synced.requires_grad_(child.weight.requires_grad))
        else:
            synchronize_batch_norms(fabric, child)
