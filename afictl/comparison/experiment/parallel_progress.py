"""What several running cells are doing: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from afictl.progress import progress_bar
from afictl.run_folder import METRICS

_LOOK, _LINE = 1.0, 300.0
"""Seconds between two looks at the runs, and between two lines where there is no terminal."""
_TAIL = 4096


class ParallelProgress:
    """Shows the cells that run, and tells of each that starts or ends."""

    def __init__(self, console: Console, bar: Progress, cells: int, steps: int) -> None:
        self.console, self.bar, self.steps = console, bar, steps
        self.all = bar.add_task("cells", total=cells)
        self.tasks: dict[str, TaskID] = {}
        self.began: dict[str, float] = {}
        self.looked = self.spoke = time.monotonic()

    def started(self, name: str, log: Path) -> None:
        """A cell has started and prints to ``log``."""
        self.tasks[name] = self.bar.add_task(name, total=self.steps)
        self.began[name] = time.monotonic()
        self.say(f"{name}: started; {log}")

    def ended(self, name: str, problem: str) -> None:
        """A cell has ended, with a ``problem`` or without."""
        self.bar.remove_task(self.tasks.pop(name))
        self.bar.advance(self.all)
        minutes = (time.monotonic() - self.began[name]) / 60
        self.say(f"{name}: " + (f"failed: {problem}" if problem else f"done in {minutes:.1f} minutes"))

    def look(self, running: Mapping[str, Path]) -> None:
        """Show how far the runs have come, by the folder of each; call it as often as convenient."""
        now = time.monotonic()
        if now < self.looked + _LOOK:
            return
        self.looked = now
        steps = {name: _last_step(folder) for name, folder in running.items()}
        for name, step in steps.items():
            self.bar.update(self.tasks[name], completed=step)
        self.bar.refresh()
        if not self.console.is_terminal and now > self.spoke + _LINE:
            self.spoke = now
            self.say("; ".join(f"{name}: step {step} of {self.steps}" for name, step in steps.items()))

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)


@contextmanager
def show_parallel_progress(cells: int, steps: int) -> Iterator[ParallelProgress]:
    """A board for ``cells`` runs of ``steps`` steps."""
    console = Console(highlight=False, soft_wrap=True)
    with progress_bar(console, elapsed=True) as bar:
        yield ParallelProgress(console, bar, cells, steps)


def _last_step(folder: Path) -> int:
    """The last step that a run has recorded."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0
