"""Progress display: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished items and of all items."""
ProgressDisplay = Callable[[str], AbstractContextManager[ProgressCallback]]
"""Opens a display for items of a plural name, such as ``images``."""

_MAX_LINES = 10
_MIN_ITEMS_PER_LINE = 6  # no line for fewer items
_REFRESH_SECONDS = 0.1


@contextmanager
def no_progress(items: str) -> Iterator[ProgressCallback]:
    """A ``ProgressDisplay`` that shows nothing."""
    yield lambda count, total: None


@contextmanager
def show_progress(console: Console, items: str) -> Iterator[ProgressCallback]:
    """A ``ProgressDisplay`` on ``console``: a bar on a terminal, up to ten lines elsewhere."""
    if not console.is_terminal:
        yield lambda count, total: _print_line(console, items, count, total)
        return
    with progress_bar(console, items) as bar:
        task = bar.add_task(items, total=None)
        last_refresh = 0.0

        def show(count: int, total: int) -> None:
            nonlocal last_refresh
            due = time.monotonic() >= last_refresh + _REFRESH_SECONDS or count == total
            bar.update(task, completed=count, total=total, refresh=due)
            last_refresh = time.monotonic() if due else last_refresh

        yield show


def replace_unencodable_output() -> None:
    """Let standard output and error print ``?`` for letters that their encoding lacks, instead of an exception.

    Such are letters of class names and file names in a log of an ASCII locale, and bytes of paths that are no text.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def progress_bar(console: Console, description: str = "{task.description}", *, elapsed: bool = False) -> Progress:
    """A transient rich progress bar, disabled if ``console`` is not a terminal.

    The caller refreshes it, as rich's refresh thread must not run while loader processes are forked.

    Args:
        console: console of the bar.
        description: first column, in rich's format.
        elapsed: whether to show elapsed instead of remaining time.
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


def _print_line(console: Console, items: str, count: int, total: int) -> None:
    """Print a line at each tenth of the items, less often for few items."""
    lines = min(_MAX_LINES, total // _MIN_ITEMS_PER_LINE)
    if count * lines // total > (count - 1) * lines // total:
        console.print(f"{items}: {count} of {total}")
