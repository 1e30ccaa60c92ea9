"""Batch norm with fixed statistics and scale, for fine-tuning with few images per device."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's frozen batch norm in one pass and in the dtype of its input.

    torchvision's own forward allocates two full-size temporaries, and under bfloat16 autocast it returns float32:
    twice the memory for every activation of the backbone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # F.batch_norm stores its input for the gradient of the scale, which has none here; this form does not.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(_as_map(shift, x), x, _as_map(scale, x))


def _as_map(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) as (1, C, 1, ...) in the dtype and with the dimensions of ``x``."""
    return values.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))


class WithActivation(nn.Module):
    """Base class before that of a norm: adds the dropout and the activation of timm's ``BatchNormAct2d``."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Norm, dropout and activation of (N, C, H, W)."""
        return cast(Tensor, self.act(self.drop(super().forward(x))))

    def take_activation(self, norm: BatchNormAct2d) -> None:
        """Continue with the dropout and the activation of ``norm``."""
        self.drop, self.act = norm.drop, norm.act


class FrozenBatchNormAct(WithActivation, FrozenBatchNorm):
    """A frozen ``BatchNormAct2d``."""


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm in ``module`` by a frozen one with the same values and eps.

    Returns:
        ``module`` itself, changed in place, or its replacement when it is a batch norm.
    """
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        kind = FrozenBatchNormAct if isinstance(module, BatchNormAct2d) else FrozenBatchNorm
        frozen = kind(module.num_features, module.eps).to(next(module.buffers()).device)
        frozen.load_state_dict(module.state_dict(), strict=module.affine)  # without scale and shift: one and zero
        if isinstance(frozen, WithActivation) and isinstance(module, BatchNormAct2d):
            frozen.take_activation(module)
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module
