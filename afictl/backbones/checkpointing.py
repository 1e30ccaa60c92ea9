"""Activation checkpointing: less memory for more time (Chen et al. 2016, https://arxiv.org/abs/1604.06174).

timm's own switch for feature extractors checkpoints whole stages, never the last one, and lets the second
computation move the running statistics of batch norms once more. This one works block by block, in every
stage, and changes no number.
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
    """A chain that keeps only the input of each of its parts and computes the rest again in the backward pass.

    Args:
        chain: what it takes the place of, with the same names of parts.
    """

    def __init__(self, chain: nn.Sequential) -> None:
        super().__init__(OrderedDict(chain.named_children()))

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Sequential``, with the same result, gradients and changes of buffers."""
        for part in self:
            x = _checkpointed(part, x) if torch.is_grad_enabled() else part(x)
        return x


def _checkpointed(part: nn.Module, x: Tensor) -> Tensor:
    # Not the reentrant kind: that one loses the gradients of a part whose input needs none.
    return checkpoint(part, x, use_reentrant=False, context_fn=partial(_contexts, part))


def _contexts(part: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Around the first computation of ``part``, and around the one in the backward pass."""
    return nullcontext(), _still_statistics(part)


@contextmanager
def _still_statistics(part: nn.Module) -> Iterator[None]:
    """Running statistics stay as they are: an update without momentum changes none, and a copy counts it."""
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum, norm.num_batches_tracked = 0.0, count if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
