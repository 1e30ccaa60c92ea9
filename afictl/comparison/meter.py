"""How long work tells how far it has come, without knowing of consoles."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Show = Callable[[int, int], None]
"""Called with the number of items done and of all."""
Meter = Callable[[str], AbstractContextManager[Show]]
"""Gives a ``Show`` for the time of one piece of work, by the name of its items."""


@contextmanager
def silent(what: str) -> Iterator[Show]:
    """Show nothing."""
    yield lambda done, total: None
