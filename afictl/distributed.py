"""Collectives that propagate a failure to every rank, and the runtime of a computation.

Legend: a rank is one process of a launched group; world size is the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from afictl.errors import UserError, format_error

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """Where and how a detector runs: device, rank, world size, number format and loader processes."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    """Returns the context that every forward pass runs in, such as ``fabric.autocast``."""
    workers: int = 2
    """Loader processes of this rank; 0 loads in this process."""

    @classmethod
    def of_fabric(cls, fabric: Fabric, workers: int) -> Runtime:
        """The runtime of a launched ``Fabric`` with ``workers`` loader processes a rank."""
        return cls(fabric.device, fabric.global_rank, fabric.world_size, fabric.autocast, workers)

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0


def world_size() -> int:
    """Number of ranks of the default process group; 1 without a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_reduce_mean(value: Tensor) -> Tensor:
    """Mean of ``value`` over all ranks, without gradient; ``value`` itself for one rank.

    Gradients are averaged over ranks: a sum divided by this mean trains as the whole batch on one device.
    """
    if world_size() == 1:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


class _AllReduceSum(torch.autograd.Function):
    """``torch.distributed.nn.functional.all_reduce`` does the same, but is deprecated in favour of a private module."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum of the gradients: the loss of each rank depends on this value through its copy of the sum."""
        return all_reduce_sum(gradient)


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum of ``value`` over all ranks, through which gradients flow back to every rank. Needs a process group."""
    total: Tensor = _AllReduceSum.apply(value)
    return total


def all_gather(action: Callable[[], T], world_size: int) -> list[T]:
    """Run ``action`` on every rank and return its results in the order of the ranks, on all of them.

    Every rank has to call this; it is a barrier. A rank that dies closes its connections, which ends the wait of the
    others with an error.

    Raises:
        UserError: raised by ``action`` on any rank; an ``OSError`` of another rank too.
        Exception: raised by ``action`` on this rank, or ``RuntimeError`` that names the other rank.
    """
    if world_size == 1:
        return [action()]
    value: T | None = None
    failure: Exception | None = None
    try:
        value = action()
    except Exception as error:  # the other ranks receive it before it is raised
        failure = error
    message = "" if failure is None else format_error(failure) or type(failure).__name__
    outcomes: list[tuple[T | None, str, bool]] = [(None, "", False)] * world_size
    distributed.all_gather_object(outcomes, (value, message, isinstance(failure, UserError | OSError)))
    for rank, (_, reason, is_user_error) in enumerate(outcomes):
        if reason and failure is None:
            failure = UserError(reason) if is_user_error else RuntimeError(f"process {rank} failed: {reason}")
    if failure is not None:
        failure.raised_on_all_ranks = True  # type: ignore[attr-defined]  # so that a single rank prints it
        raise failure
    return [cast(T, result) for result, _, _ in outcomes]


def run_on_rank_zero(action: Callable[[], T], rank: int, world_size: int) -> T:
    """Run ``action`` on rank 0 alone and return its result on all ranks.

    Raises:
        Exception: as ``all_gather``.
    """
    results = all_gather(lambda: None if rank else action(), world_size)
    return cast(T, results[0])
