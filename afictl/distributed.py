"""Collectives that propagate a failure to every rank, and the runtime of a computation.

Legend: a rank is one process of a launched group; world size is the number of ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, distributed

from afictl.errors import UserError, format_error
from afictl.progress import ProgressCallback

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

_NO_ITEM = object()

_CONNECTION = re.compile(r"gloo|[Cc]onnection (closed|reset|refused)|Socket|Broken pipe")
"""In the text of errors of gloo, which are plain ``RuntimeError``."""


@dataclass(frozen=True)
class Runtime:
    """Device, rank, world size, precision and loader processes of a computation."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    """Returns the context of a forward pass, such as ``fabric.autocast``."""
    workers: int = 2
    """Loader processes per rank; 0 loads in the main process."""

    @classmethod
    def of_fabric(cls, fabric: Fabric, workers: int) -> Runtime:
        """Runtime of a launched ``Fabric`` with ``workers`` loader processes per rank."""
        return cls(fabric.device, fabric.global_rank, fabric.world_size, fabric.autocast, workers)

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0


def world_size() -> int:
    """Number of ranks of the default process group; 1 without a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Rank in the default process group; 0 without a group."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_connection_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone."""
    is_of_collective = isinstance(error, RuntimeError) and _CONNECTION.search(str(error)) is not None
    return is_of_collective or isinstance(error, distributed.DistNetworkError | distributed.DistBackendError)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of ``value`` over all ranks, without gradient; ``value`` itself for one rank."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total


def max_over_ranks(values: Sequence[int], device: torch.device) -> list[int]:
    """Maximum of each of ``values`` over all ranks, whose tensors are on ``device``."""
    if world_size() == 1:
        return list(values)
    maximum = torch.tensor(values, device=device)
    distributed.all_reduce(maximum, distributed.ReduceOp.MAX)
    return maximum.tolist()


class _AllReduceSum(torch.autograd.Function):
    """Replacement of ``torch.distributed.nn.functional.all_reduce``, deprecated in favour of a private module."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        """Sum the gradients, as the loss of each rank depends on ``value`` through its copy of the sum."""
        return all_reduce_sum(gradient)


def all_reduce_sum(value: Tensor) -> Tensor:
    """Differentiable sum of ``value`` over all ranks; needs a process group."""
    total: Tensor = _AllReduceSum.apply(value)
    return total


def all_gather(action: Callable[[], T], world_size: int) -> list[T]:
    """Run ``action`` on every rank and return its results in the order of the ranks, on all of them.

    All ranks must call this; it is a barrier. If a rank dies, its connections close and the others raise an error.

    Raises:
        UserError: ``action`` raised it on any rank, or an ``OSError`` on another rank.
        KeyboardInterrupt: ``action`` raised it on any rank.
        Exception: ``action`` raised it on this rank; for another rank, a ``RuntimeError`` that names the rank.
    """
    if world_size == 1:
        return [action()]
    value: T | None = None
    failure: BaseException | None = None
    try:
        value = action()
    except (Exception, KeyboardInterrupt) as error:  # raised after the other ranks have received it
        failure = error
    message = "" if failure is None else format_error(failure) or type(failure).__name__
    kinds: tuple[type[BaseException], ...] = (KeyboardInterrupt, UserError, OSError)
    kind = next((kind for kind in kinds if isinstance(failure, kind)), Exception)
    outcomes: list[tuple[T | None, str, type[BaseException]]] = [(None, "", Exception)] * world_size
    try:
        distributed.all_gather_object(outcomes, (value, message, kind))
    except RuntimeError:
        if failure is not None:  # the cause, not the connection that another rank has closed meanwhile
            raise failure from None
        raise
    for rank, (_, reason, kind) in enumerate(outcomes):
        if reason and failure is None:
            failure = _failure_of(rank, reason, kind)
    if failure is not None:
        failure.raised_on_all_ranks = True  # type: ignore[attr-defined]  # so that a single rank prints it
        raise failure
    return [cast(T, result) for result, _, _ in outcomes]


def _failure_of(rank: int, reason: str, kind: type[BaseException]) -> BaseException:
    """The error of another rank."""
    if kind is KeyboardInterrupt:
        return KeyboardInterrupt()
    return RuntimeError(f"process {rank} failed: {reason}") if kind is Exception else UserError(reason)


def run_on_rank_zero(action: Callable[[], T], rank: int, world_size: int) -> T:
    """Run ``action`` on rank 0 and return its result on all ranks.

    Raises:
        Exception: as ``all_gather``.
    """
    results = all_gather(lambda: None if rank else action(), world_size)
    return cast(T, results[0])


def run_on_rank_zero_with_progress(
    action: Callable[[ProgressCallback], T], progress: ProgressCallback, rank: int, world_size: int
) -> T:
    """Run a long ``action`` on rank 0, which any rank may end early, and return its result on all ranks.

    Args:
        action: calls its argument after each part, with the number of parts done and of all parts.
        progress: called on every rank with these numbers, on other ranks than 0 one part later; what it raises on any
            rank is raised on all.
        rank: of this process.
        world_size: number of ranks.

    Raises:
        Exception: as ``all_gather``.
    """
    if world_size == 1:
        return action(progress)
    if rank == 0:
        return _lead(action, progress, world_size)
    counts: tuple[int, int] | None = None
    result: tuple[T, ...] = ()
    while not result:
        counts, result = all_gather(partial(_report, progress, counts), world_size)[0]
    return result[0]


def _report(progress: ProgressCallback, counts: tuple[int, int] | None) -> tuple[tuple[int, int] | None, tuple[T, ...]]:
    """Report progress; returns ``counts`` and an empty result."""
    if counts is not None:
        progress(*counts)
    return counts, ()


def _lead(action: Callable[[ProgressCallback], T], progress: ProgressCallback, world_size: int) -> T:
    """``run_on_rank_zero_with_progress`` on rank 0, whose every report is a collective, and its end the last one."""

    def share(count: int, total: int) -> None:
        all_gather(partial(_report, progress, (count, total)), world_size)

    def finish() -> tuple[None, tuple[T]]:
        if failure is not None:
            raise failure
        return None, (result,)

    failure: BaseException | None = None
    try:
        result = action(share)
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "raised_on_all_ranks"):
            raise
        failure = error
    return all_gather(finish, world_size)[0][1][0]


def gather_in_turn(own: Iterator[T], consume: Callable[[T], None], world_size: int, per_exchange: int = 4) -> None:
    """Pass the items of all ranks to ``consume`` on every rank: the first item of each rank, the second of each, ...

    Args:
        own: items of this rank, produced a few at a time.
        consume: called on every rank with every item.
        world_size: number of ranks; all must call this.
        per_exchange: items of a rank between two collectives.

    Raises:
        Exception: raised by ``own`` or ``consume`` on any rank, see ``all_gather``.
    """
    gathered: list[list[T]] = []

    def consume_and_produce() -> list[T]:
        for items in zip_longest(*gathered, fillvalue=_NO_ITEM):
            for item in items:
                if item is not _NO_ITEM:
                    consume(cast(T, item))
        return list(islice(own, per_exchange))

    gathered = all_gather(consume_and_produce, world_size)
    while any(gathered):
        gathered = all_gather(consume_and_produce, world_size)
