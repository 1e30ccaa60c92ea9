"""Progress of a training: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from types import TracebackType

import torch

from afictl.progress import progress_bar
from afictl.training.run_writer import RunWriter

_MAX_SILENT_SECONDS = 30.0


class TrainingLogger:
    """Losses, times and memory of a training, logged once an interval of steps.

    Args:
        run: writer of log lines and metrics.
        steps: total number of steps.
        start: completed steps.
        device: its peak memory is logged.
    """

    def __init__(self, run: RunWriter, steps: int, start: int, device: torch.device) -> None:
        self.run, self.steps, self.device = run, steps, device
        self.bar = progress_bar(run.console)
        self.steps_task = self.bar.add_task(run.folder.name, total=steps, completed=start)
        self.evaluation_task = self.bar.add_task("evaluation", total=None, visible=False)
        self.interval = max(1, min(20, steps // 10))
        self.reset_interval()

    def __enter__(self) -> TrainingLogger:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        with suppress(OSError) if error else nullcontext():  # the first error is raised
            self.run.close()

    def reset_interval(self) -> None:
        """Begin a new interval, so that an evaluation does not count as training time."""
        self.interval_start = self.step_start = self.last_line = time.perf_counter()
        self.num_steps, self.data_seconds = 0, 0.0
        self.evaluation_logged = False
        self.bar.update(self.evaluation_task, visible=False, refresh=True)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Count the time inside as data loading."""
        start = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - start

    def log_step(self, step: int, losses: Mapping[str, float], rate: float) -> float:
        """Show a completed step, with a record and a log line at the end of an interval. Returns its seconds."""
        now = time.perf_counter()
        seconds, self.step_start = now - self.step_start, now
        self.num_steps += 1
        name = f"{self.run.folder.name} {sum(losses.values()):.3f}"
        self.bar.update(self.steps_task, completed=step, description=name, refresh=True)
        # Which steps are recorded must not depend on time: a resumed run has the records of an uninterrupted one.
        is_recorded = step % self.interval == 0 or step == self.steps
        if is_recorded or now - self.last_line > _MAX_SILENT_SECONDS:
            self._log_interval(step, losses, rate, is_recorded)
            self.last_line = now
        if is_recorded:
            self.reset_interval()
        return seconds

    def log_evaluation(self, count: int, total: int) -> None:
        """Show that ``count`` of ``total`` images are evaluated; after a first log line, the last image has one too."""
        self.bar.update(self.evaluation_task, completed=count, total=total, visible=True, refresh=True)
        silent = time.perf_counter() - self.last_line > _MAX_SILENT_SECONDS
        if not self.run.console.is_terminal and (silent or (self.evaluation_logged and count == total)):
            self.run.log(f"evaluated {count} of {total} images")
            self.last_line, self.evaluation_logged = time.perf_counter(), True

    def _log_interval(self, step: int, losses: Mapping[str, float], rate: float, is_recorded: bool) -> None:
        seconds = (self.step_start - self.interval_start) / self.num_steps
        data_seconds = self.data_seconds / self.num_steps
        memory = _memory_gib(self.device)
        times = {"seconds_per_step": seconds, "data_seconds": data_seconds, "memory_gib": memory}
        if is_recorded:
            self.run.log_metrics(step, {**losses, "lr": rate, **times})
        terms = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        remaining = timedelta(seconds=round(seconds * (self.steps - step)))
        self.run.log(
            f"step {step}/{self.steps}  {terms}  lr {rate:.2g}  {seconds:.3f} s/step (data {data_seconds:.3f})"
            f"  {memory:.2f} GiB  eta {remaining}"
        )


def _memory_gib(device: torch.device) -> float:
    """Peak memory so far: allocated on a CUDA device, resident in the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 2**30
