"""Progress bar on a terminal and lines elsewhere."""

import io

import pytest
from rich.console import Console

from afictl.progress import show_progress


@pytest.mark.parametrize(("total", "count"), [(1, 0), (12, 2), (25, 4), (1001, 10)])
def test_without_a_terminal_a_few_lines_are_printed(total, count):
    console = Console(file=io.StringIO(), width=80)
    with show_progress(console, "images") as progress:
        for done in range(1, total + 1):
            progress(done, total)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == count
    assert lines[-1:] == [f"images: {total} of {total}"][:count]


def test_on_a_terminal_the_bar_ends_full():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with show_progress(console, "images") as progress:
        for done in range(1, 26):
            progress(done, 25)
    assert "25/25" in console.file.getvalue()
