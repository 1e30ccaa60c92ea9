"""Activation checkpointing: less memory for more time (Chen et al. 2016, https://arxiv.org/abs/1604.06174).

timm checkpoints complete stages of feature extractors, never the last one, and its recomputation updates the running
statistics of batch norms a second time. Here it works block by block, in every stage, with the same numbers as
without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_CHAINS = (nn.Sequential, nn.ModuleList)


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


def checkpoint_blocks(net: nn.Module) -> int:
    """Make every block of a network of timm store its inputs only, with unchanged names and numbers.

    Blocks are the elements of the chains of a network: of its sequential modules and lists, and of the stages that timm
    itself checkpoints. Single layers are no blocks.

    Returns:
        Number of blocks.
    """
    blocks = list(_blocks(net, in_chain=False))
    for block in blocks:
        checkpoint_module(block)
    return len(blocks)


def checkpoint_module(module: nn.Module) -> None:
    """Make ``module`` store its inputs only, with unchanged names and numbers; its hooks see the first computation."""
    kind = type(module)
    if not issubclass(kind, _CheckpointedModule):
        module.__class__ = type(f"Checkpointed{kind.__name__}", (_CheckpointedModule, kind), {})


class _CheckpointedModule(nn.Module):
    """Base class before that of a module."""

    def forward(self, *inputs: object, **options: object) -> object:
        """Result, gradients and buffers are those of the module."""
        forward: Callable[..., object] = partial(super().forward, **options)
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, self))


def _blocks(module: nn.Module, in_chain: bool) -> Iterator[nn.Module]:
    """The blocks inside ``module``, whose children are elements of a chain or not."""
    for child in module.children():
        if isinstance(child, _CHAINS):
            yield from _blocks(child, in_chain=True)
        elif hasattr(child, "grad_checkpointing"):  # a stage: of one chain, or its children are the chain
            yield from _blocks(child, in_chain=not any(isinstance(part, _CHAINS) for part in child.children()))
        elif not in_chain:
            yield from _blocks(child, in_chain=False)
        elif sum(1 for part in child.modules() if any(True for _ in part.parameters(recurse=False))) > 1:
            yield child


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
