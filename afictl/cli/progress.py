"""Progress of a command: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LINES = 10
_ITEMS = 6  # a line for fewer is noise
_REFRESH = 0.1  # seconds


@contextmanager
def show_progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the number of items done and of all items; ``what`` names them."""
    if not console.is_terminal:
        yield lambda done, total: _print_line(console, what, done, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Refreshed from here: the thread of rich must not run while worker processes are forked.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, total=None)
        shown = 0.0

        def show(done: int, total: int) -> None:
            nonlocal shown
            due = time.monotonic() >= shown + _REFRESH or done == total
            bar.update(task, completed=done, total=total, refresh=due)
            shown = time.monotonic() if due else shown

        yield show


def _print_line(console: Console, what: str, done: int, total: int) -> None:
    """A line at each tenth of the way, at larger parts of few items."""
    lines = min(_LINES, total // _ITEMS)
    if done * lines // total > (done - 1) * lines // total:
        console.print(f"{what}: {done} of {total}")
