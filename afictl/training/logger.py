"""What a training shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import timedelta
from types import TracebackType

import torch

from afictl.progress import progress_bar
from afictl.training.run_writer import RunWriter

_QUIET_SECONDS = 30.0


class TrainingLogger:
    """Losses, times and memory of the steps, each interval as a line and a record of the run.

    Args:
        run: where lines and records go.
        steps: of the whole training.
        start: steps done before.
        device: whose memory is shown.
    """

    def __init__(self, run: RunWriter, steps: int, start: int, device: torch.device) -> None:
        self.run, self.steps, self.device = run, steps, device
        self.bar = progress_bar(run.console)
        self.task = self.bar.add_task(run.folder.name, total=steps, completed=start)
        self.images = self.bar.add_task("evaluation", total=None, visible=False)
        self.every = max(1, min(20, steps // 10))
        self.reset_interval()

    def __enter__(self) -> TrainingLogger:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        with suppress(OSError) if error else nullcontext():  # what came first counts
            self.run.close()

    def reset_interval(self) -> None:
        """Begin a new interval, so that an evaluation does not count as training time."""
        self.began = self.last = self.spoke = time.perf_counter()
        self.count, self.waited = 0, 0.0
        self.told = False
        self.bar.update(self.images, visible=False, refresh=True)

    def mark_batch_loaded(self) -> None:
        """The batch of the next step has arrived."""
        self.waited += time.perf_counter() - self.last

    def log_step(self, step: int, losses: Mapping[str, float], rate: float) -> float:
        """A step is done: show it, with a line when an interval is full. Returns the seconds it took."""
        now = time.perf_counter()
        took, self.last = now - self.last, now
        self.count += 1
        name = f"{self.run.folder.name} {sum(losses.values()):.3f}"
        self.bar.update(self.task, completed=step, description=name, refresh=True)
        if step % self.every == 0 or step == self.steps or now - self.began > _QUIET_SECONDS:
            self._report(step, losses, rate)
            self.reset_interval()
        return took

    def log_evaluation(self, done: int, total: int) -> None:
        """An evaluation has got through ``done`` of ``total`` images; a line for it is followed by one for the last."""
        self.bar.update(self.images, completed=done, total=total, visible=True, refresh=True)
        due = time.perf_counter() - self.spoke > _QUIET_SECONDS or (self.told and done == total)
        if not self.run.console.is_terminal and due:
            self.run.log(f"evaluated {done} of {total} images")
            self.spoke, self.told = time.perf_counter(), True

    def _report(self, step: int, losses: Mapping[str, float], rate: float) -> None:
        seconds, waited = (self.last - self.began) / self.count, self.waited / self.count
        memory = _memory_gib(self.device)
        times = {"seconds_per_step": seconds, "data_seconds": waited, "memory_gib": memory}
        self.run.log_metrics(step, {**losses, "lr": rate, **times})
        terms = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        left = timedelta(seconds=round(seconds * (self.steps - step)))
        self.run.log(
            f"step {step}/{self.steps}  {terms}  lr {rate:.2g}  {seconds:.3f} s/step (data {waited:.3f})"
            f"  {memory:.2f} GiB  eta {left}"
        )


def _memory_gib(device: torch.device) -> float:
    """Peak memory so far: allocated on a CUDA device, resident in the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
