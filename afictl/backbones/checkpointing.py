"""Activation checkpointing: less memory for more time (Chen et al. 2016, https://arxiv.org/abs/1604.06174).

timm checkpoints complete stages of feature extractors, never the last one, and its recomputation updates the running
statistics of batch norms a second time. ``CheckpointedSequential`` works block by block, in every stage, with
the same numbers as without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class CheckpointedSequential(nn.Sequential):
    """A sequential module that stores the input of each of its parts only and recomputes the rest in the backward pass.

    Args:
        chain: the module to replace; names of its parts are unchanged.
    """

    def __init__(self, chain: nn.Sequential) -> None:
        super().__init__(OrderedDict(chain.named_children()))

    def forward(self, x: Tensor) -> Tensor:
        """Result, gradients and buffers are those of ``nn.Sequential``."""
        for part in self:
            x = _checkpointed(part, x) if torch.is_grad_enabled() else part(x)
        return x


def _checkpointed(part: nn.Module, x: Tensor) -> Tensor:
    # Not the reentrant kind: that one loses the gradients of a part whose input needs none.
    return checkpoint(part, x, use_reentrant=False, context_fn=partial(_contexts, part))


def _contexts(part: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of the first computation of ``part`` and of the recomputation."""
    return nullcontext(), _fixed_statistics(part)


@contextmanager
def _fixed_statistics(part: nn.Module) -> Iterator[None]:
    """Do not update running statistics: momentum is 0, and a copy of ``num_batches_tracked`` is incremented."""
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum, norm.num_batches_tracked = 0.0, count if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
