"""Progress of runs that are trained in parallel: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from afictl.progress import progress_bar
from afictl.run_records import last_step

_UPDATE_SECONDS = 1.0
_LINE_SECONDS = 300.0
"""Interval of progress lines where the output is not a terminal."""


class SpreadProgress:
    """Display of the steps of the running runs, with a line for each start and end."""

    def __init__(self, console: Console, bar: Progress, num_runs: int, steps: int) -> None:
        self._console, self._bar, self._steps = console, bar, steps
        self._total = bar.add_task("runs", total=num_runs)
        self._tasks: dict[str, TaskID] = {}
        self._start_times: dict[str, float] = {}
        self._last_update = self._last_line = time.monotonic()

    @property
    def num_running(self) -> int:
        """Number of runs that have started and not ended."""
        return len(self._tasks)

    def end(self, run: str, failure: str, is_finished: bool) -> None:
        """Remove a run that has ended.

        Args:
            run: name of the run.
            failure: its error; empty for none.
            is_finished: whether it has a result; without one and without an error, another command trains it.
        """
        if run in self._tasks:
            self._bar.remove_task(self._tasks.pop(run))
        self._bar.advance(self._total)
        minutes = (time.monotonic() - self._start_times.get(run, time.monotonic())) / 60
        success = f"done in {minutes:.1f} minutes" if is_finished else "another command trains it"
        self.log(f"{run}: " + (f"failed: {failure}" if failure else success))

    def update(self, runs: Mapping[str, tuple[Path, Path]]) -> None:
        """Display the last step of each running run, at most once per second.

        Args:
            runs: folder and log file by run, of all that have not ended; a run has started when its log exists.
        """
        now = time.monotonic()
        if now < self._last_update + _UPDATE_SECONDS:
            return
        self._last_update = now
        for run, (_, log) in runs.items():
            if run not in self._tasks and log.is_file():
                self._tasks[run] = self._bar.add_task(run, total=self._steps)
                self._start_times[run] = now
                self.log(f"{run}: started; {log}")
        steps = {run: last_step(folder) for run, (folder, _) in runs.items() if run in self._tasks}
        for run, step in steps.items():
            self._bar.update(self._tasks[run], completed=step)
        self._bar.refresh()
        if not self._console.is_terminal and now > self._last_line + _LINE_SECONDS:
            self._last_line = now
            self.log("; ".join(f"{run}: step {step} of {self._steps}" for run, step in steps.items()))

    def log(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)


@contextmanager
def show_spread_progress(num_runs: int, steps: int) -> Iterator[SpreadProgress]:
    """Yield a display for ``num_runs`` runs of ``steps`` steps."""
    console = Console(highlight=False, soft_wrap=True)
    with progress_bar(console, elapsed=True) as bar:
        yield SpreadProgress(console, bar, num_runs, steps)
