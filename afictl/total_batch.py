"""Sums, maxima and random draws over the total batch of a training step: the images of all ranks.

A rank computes its images in one pass or, with gradient accumulation, in several micro-batches. The divisors of losses
are counts of the total batch, and some depend on outputs of the network, such as the number of sampled regions. They
are known only after a pass over all micro-batches, which ``MicroBatches`` therefore has before the one with gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from afictl.distributed import max_over_ranks, rank, sum_over_ranks, world_size


class MicroBatches:
    """The micro-batches of a step on this rank, whose losses are divided by counts of the total batch.

    Within ``counting`` and ``training`` the functions of this module are those of one micro-batch. Every pass must call
    them in the same order.

    Args:
        number: of micro-batches.
        largest: for each call of ``max_over_total_batch`` in a pass the maxima over the total batch.
    """

    def __init__(self, number: int, largest: Sequence[Sequence[int]]) -> None:
        self.number = number
        self.index = 0
        self._largest = largest
        self._counts: list[Tensor] = []
        self._is_counting = False
        self._sums, self._maxima = 0, 0

    @contextmanager
    def counting(self, index: int) -> Iterator[None]:
        """Pass over micro-batch ``index`` that adds to the sums and returns those of the micro-batch alone."""
        with self._computing(index, is_counting=True):
            yield

    @contextmanager
    def training(self, index: int) -> Iterator[None]:
        """Pass over micro-batch ``index`` in which sums are those of the total batch."""
        with self._computing(index, is_counting=False):
            yield

    def exchange(self) -> None:
        """Add the sums of all ranks, between the passes; all ranks must call this."""
        if self._counts:
            self._counts = list(sum_over_ranks(torch.stack(self._counts)).unbind())

    @contextmanager
    def _computing(self, index: int, is_counting: bool) -> Iterator[None]:
        # A module variable, not a context variable: backward passes on GPUs run in threads of autograd.
        global _micro_batches
        self.index, self._is_counting = index, is_counting
        self._sums, self._maxima = 0, 0
        _micro_batches = self
        try:
            yield
        finally:
            _micro_batches = None

    def sum(self, value: Tensor) -> Tensor:
        """``sum_over_total_batch`` of a micro-batch."""
        call, self._sums = self._sums, self._sums + 1
        if not self._is_counting:
            return self._counts[call]
        if self.index == 0:
            self._counts.append(value)
        else:
            self._counts[call] = self._counts[call] + value
        return value

    def largest(self) -> list[int]:
        """``max_over_total_batch`` of a micro-batch."""
        call, self._maxima = self._maxima, self._maxima + 1
        return list(self._largest[call])


_micro_batches: MicroBatches | None = None
"""Those of the pass under way; None in a pass over all images of this rank."""


def num_micro_batches() -> int:
    """Number of micro-batches of this rank, of which the present pass is over one; 1 without accumulation."""
    return _micro_batches.number if _micro_batches else 1


def share_of_total_batch() -> tuple[int, int]:
    """Index of the share of the total batch that the present pass is over, and the number of shares, all of one size.

    Shares are ordered by rank, those of a rank by micro-batch, as the images of the total batch are.
    """
    number = num_micro_batches()
    index = _micro_batches.index if _micro_batches else 0
    return rank() * number + index, world_size() * number


def sum_over_total_batch(value: Tensor) -> Tensor:
    """Sum of a float32 scalar over all ranks and their micro-batches, without gradient; all ranks must call this."""
    return _micro_batches.sum(value.detach()) if _micro_batches else sum_over_ranks(value)


def max_over_total_batch(values: Sequence[int], device: torch.device) -> list[int]:
    """Maximum of each of ``values`` over all ranks, whose tensors are on ``device``, and their micro-batches."""
    return _micro_batches.largest() if _micro_batches else max_over_ranks(values, device)


def loss_divisor(count: Tensor | int, like: Tensor, minimum: float = 1.0) -> Tensor:
    """What a rank divides the sum of a loss by, so that all ranks together train as one with the total batch.

    DDP averages gradients over ranks, and accumulation adds those of micro-batches. The divisor is therefore the number
    of terms in the total batch over the number of ranks. All ranks must call this, also those without terms.

    Args:
        count: terms of the sum in this pass.
        like: a tensor on the device of the loss.
        minimum: lowest number of terms in the total batch, so that a batch without any divides by it.
    """
    total = sum_over_total_batch(torch.as_tensor(count, dtype=torch.float32, device=like.device))
    return total.clamp(min=minimum) / world_size()
