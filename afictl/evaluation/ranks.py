"""What several processes do together, so that the failure of one ends all of them with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

from afictl.errors import UserError, in_words

T = TypeVar("T")


def share(action: Callable[[], T], world_size: int) -> list[T]:
    """What ``action`` returns in each process, by rank, in all of them.

    Every process calls this, and with several it is how they wait for one another. One that dies without a word
    closes its connections, which ends the others' waiting with an error.

    Raises:
        UserError: a mistake of the user that any of them met.
        Exception: the one that ``action`` raised here, or ``RuntimeError`` naming another process's.
    """
    if world_size == 1:
        return [action()]
    value: Any = None
    failure: Exception | None = None
    try:
        value = action()
    except Exception as error:  # told to the others before it is raised
        failure = error
    told = "" if failure is None else in_words(failure) or type(failure).__name__
    everyone: list[Any] = [None] * world_size
    distributed.all_gather_object(everyone, (value, told, isinstance(failure, UserError | OSError)))
    for rank, (_, reason, is_mistake) in enumerate(everyone):
        if reason and failure is None:
            failure = UserError(reason) if is_mistake else RuntimeError(f"process {rank} failed: {reason}")
    if failure is not None:
        failure.met_by_all = True  # type: ignore[attr-defined]  # so that one of them tells it
        raise failure
    return [result for result, _, _ in everyone]


def on_first(action: Callable[[], T], rank: int, world_size: int) -> T:
    """What ``action`` returns on the first process, which alone does it, on all of them.

    Raises:
        Exception: see ``share``.
    """
    results: list[Any] = share(lambda: None if rank else action(), world_size)
    return results[0]
