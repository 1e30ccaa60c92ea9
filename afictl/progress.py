"""Progress of long work: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

ProgressCallback = Callable[[int, int], None]
"""Called with the number of items done and of all items."""
ProgressDisplay = Callable[[str], AbstractContextManager[ProgressCallback]]
"""Opens a display for one piece of work, given the plural name of its items."""

_MAX_LINES = 10
_MIN_ITEMS_PER_LINE = 6  # a line for fewer is noise
_REFRESH_SECONDS = 0.1


@contextmanager
def no_progress(items: str) -> Iterator[ProgressCallback]:
    """A ``ProgressDisplay`` that shows nothing."""
    yield lambda done, total: None


@contextmanager
def show_progress(console: Console, items: str) -> Iterator[ProgressCallback]:
    """A ``ProgressDisplay`` on ``console``: a bar on a terminal, a line a tenth elsewhere."""
    if not console.is_terminal:
        yield lambda done, total: _print_line(console, items, done, total)
        return
    with progress_bar(console, items) as bar:
        task = bar.add_task(items, total=None)
        last_refresh = 0.0

        def show(done: int, total: int) -> None:
            nonlocal last_refresh
            due = time.monotonic() >= last_refresh + _REFRESH_SECONDS or done == total
            bar.update(task, completed=done, total=total, refresh=due)
            last_refresh = time.monotonic() if due else last_refresh

        yield show


def progress_bar(console: Console, description: str = "{task.description}", *, elapsed: bool = False) -> Progress:
    """A transient rich progress bar, disabled where ``console`` is no terminal.

    It is refreshed by its caller: rich's refreshing thread must not run while loader processes are forked.

    Args:
        console: where the bar is drawn.
        description: first column, in rich's format.
        elapsed: show elapsed instead of remaining time.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    time_column = TimeElapsedColumn() if elapsed else TimeRemainingColumn()
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), time_column)
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    bar.disable = not console.is_terminal
    return bar


def _print_line(console: Console, items: str, done: int, total: int) -> None:
    """A line at each tenth of the work, at larger parts of few items."""
    lines = min(_MAX_LINES, total // _MIN_ITEMS_PER_LINE)
    if done * lines // total > (done - 1) * lines // total:
        console.print(f"{items}: {done} of {total}")
