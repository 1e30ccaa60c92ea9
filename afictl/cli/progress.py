"""Progress of a command: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LINES = 10


@contextmanager
def show_progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the number of items done and of all items; ``what`` names them."""
    if not console.is_terminal:
        yield lambda done, total: _print_line(console, what, done, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_line(console: Console, what: str, done: int, total: int) -> None:
    """A line at each tenth of the way."""
    if done * _LINES // total > (done - 1) * _LINES // total:
        console.print(f"{what}: {done} of {total}")
