"""Batch norm with fixed statistics and scale, for fine-tuning with few images per device."""

from __future__ import annotations

import torch
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
    """Values (C,) as (1, C, 1, 1) in the dtype of ``x``."""
    return values.to(x.dtype).view(1, -1, 1, 1)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm in ``module`` by a frozen one with the same values and eps.

    Returns:
        ``module`` itself, changed in place, or its replacement when it is a batch norm.
    """
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm(module.num_features, module.eps).to(module.weight.device)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module
