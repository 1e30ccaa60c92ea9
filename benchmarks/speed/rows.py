"""Rows of the speed table: alternatives in turns, with peak memory, operations and the share of the roof."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Generic, Literal, TypeVar

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from afictl.comparison.cost.profiling import peak_bytes, time_scatter
from afictl.errors import one_line
from afictl.timing import seconds_of, synchronized_time
from benchmarks.speed.machine import Machine

Result = TypeVar("Result")
_MIN_ROUNDS, _MAX_ROUNDS = 2, 15
_MIN_SECONDS = 0.02
"""Of a round on a GPU."""


@dataclass(frozen=True)
class SpeedRow:
    """One alternative of a workload, or the reason why there is no measurement."""

    part: str
    workload: str
    precision: str
    name: str
    milliseconds: float | None = None
    """Median of the rounds."""
    minimum: float | None = None
    """Milliseconds of the fastest round."""
    spread: float | None = None
    """Interquartile range divided by the median."""
    rounds: int = 0
    baseline: str = ""
    """The alternative that it is compared with."""
    speedup: float | None = None
    """Time of the baseline divided by that of this alternative, the median of the rounds."""
    roof_share: float | None = None
    """Rate of its convolutions and matrix products, as share of the fastest large convolution in this precision."""
    gigaflops: float | None = None
    """10^9 operations, two per multiply-add."""
    peak_megabytes: float | None = None
    """Beyond weights and inputs."""
    note: str = ""


def measure_alternatives(
    part: str,
    workload: str,
    precision: str,
    runs: Mapping[str, Callable[[], Result]],
    machine: Machine,
    seconds: float,
    describe: Callable[[Mapping[str, Result]], Mapping[str, str]],
    baselines: Mapping[str, str] = MappingProxyType({}),
) -> list[SpeedRow]:
    """Measure alternatives of one workload.

    The pass that counts operations and memory is the warm-up. After it the alternatives take turns, in reverse order
    in every second round, until ``seconds`` are over.

    Args:
        part: of the table.
        workload: name of the workload.
        precision: key of ``machine.roofs``; the runs choose it themselves.
        runs: function of each alternative.
        machine: the device that they use.
        seconds: for all rounds together; at least two rounds are measured, at most 15.
        describe: notes for the table, by alternative, on the results of the warm-up.
        baselines: the alternative that another one is compared with, where it is not the first.
    """
    profiles, failures = {}, {}
    for name, run in runs.items():
        try:
            profiles[name] = profile(run, machine.device)
        except Exception as error:  # of any library: the other alternatives are measured
            failures[name] = failure_note(error)
    rows = [SpeedRow(part, workload, precision, name, note=note) for name, note in failures.items()]
    if not profiles:
        return rows
    notes = {} if failures else describe({name: warm_up.result for name, warm_up in profiles.items()})
    costs = {name: (warm_up.peak_bytes, warm_up.flops) for name, warm_up in profiles.items()}
    times = alternate({name: runs[name] for name in costs}, machine.device, seconds, machine.short)
    first = next(iter(times))
    for name, values in times.items():
        baseline = baselines.get(name, first)
        baseline = baseline if baseline in times else first
        peak, flops = costs[name]
        row = replace(
            timed_row(part, workload, precision, name, values),
            baseline=baseline,
            speedup=statistics.median(a / b for a, b in zip(times[baseline], values, strict=True)),
            roof_share=machine.share(precision, flops, statistics.median(values)) if flops else None,
            gigaflops=flops / 1e9 if flops else None,
            peak_megabytes=peak / 1e6,
            note=notes.get(name, ""),
        )
        rows.append(row)
    return rows


def timed_row(part: str, workload: str, precision: str, name: str, seconds: Sequence[float]) -> SpeedRow:
    """SpeedRow of the times of all rounds."""
    return SpeedRow(
        part=part,
        workload=workload,
        precision=precision,
        name=name,
        milliseconds=1000 * statistics.median(seconds),
        minimum=1000 * min(seconds),
        spread=time_scatter(seconds),
        rounds=len(seconds),
    )


@dataclass(frozen=True)
class Profile(Generic[Result]):
    """Cost and result of a computation."""

    peak_bytes: int
    flops: int
    """Operations of convolutions and matrix products, two per multiply-add."""
    result: Result


def profile(run: Callable[[], Result], device: torch.device) -> Profile[Result]:
    """Peak memory and operations of ``run``."""
    profiles: list[tuple[int, Result]] = []

    def count() -> Result:
        profiles.clear()
        with FlopCounterMode(display=False) as counter:
            result = run()
        profiles.append((counter.get_total_flops(), result))
        return result

    peak = peak_bytes(count, device)
    return Profile(peak, *profiles[0])


def alternate(
    runs: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, short: bool
) -> dict[str, list[float]]:
    """Seconds of every run in each round; the order is reversed in every second round.

    On a GPU a round repeats a short run, so that its time is not that of the synchronisation.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    repetitions = dict.fromkeys(runs, 1)
    if device.type == "cuda" and not short:
        repetitions = {name: math.ceil(_MIN_SECONDS / seconds_of(run, device)) for name, run in runs.items()}
    end = time.perf_counter() + seconds
    for number in range(1 if short else _MAX_ROUNDS):
        if number >= _MIN_ROUNDS and time.perf_counter() > end:
            break
        for name in list(runs)[:: -1 if number % 2 else 1]:
            start = synchronized_time(device)
            for _ in range(repetitions[name]):
                runs[name]()
            times[name].append((synchronized_time(device) - start) / repetitions[name])
    return times


def failure_note(error: Exception) -> str:
    """The note of an alternative that could not be measured."""
    return f"failed: {type(error).__name__}: {one_line(error):.200}"


def missing_rows(part: str, workload: str, precision: str, reason: str) -> list[SpeedRow]:
    """A row without a measurement."""
    return [SpeedRow(part, workload, precision, "", note=reason)]


def speed_table(rows: Sequence[SpeedRow]) -> Table:
    """Table of the rows of one part; without the columns that are empty."""
    table = Table(title=rows[0].part, title_justify="left", box=None)
    cells = [_cells(row) for row in rows]
    for header in (header for header in cells[0] if any(values[header] for values in cells)):
        justify: Literal["left", "right"] = "left" if header in _TEXT_COLUMNS else "right"
        table.add_column(header, justify=justify, no_wrap=header != "note")
    previous = {"workload": "", "precision": ""}
    for values in cells:
        group = {name: values[name] for name in previous}
        texts = values | dict.fromkeys(previous, "") if group == previous else values
        previous = group
        table.add_row(*(texts[str(column.header)] for column in table.columns))
    return table


_TEXT_COLUMNS = ("workload", "precision", "by", "against", "note")


def _cells(row: SpeedRow) -> dict[str, str]:
    """Values by heading."""
    is_baseline = row.baseline == row.name
    return {
        "workload": row.workload,
        "precision": row.precision,
        "by": row.name,
        "ms": _number(row.milliseconds),
        "fastest": _number(row.minimum),
        "+-": _percent(row.spread),
        "speed": "" if row.speedup is None or is_baseline else f"{row.speedup:.2f}x",
        "against": "" if is_baseline else row.baseline,
        "of roof": _percent(row.roof_share),
        "GFLOP": _number(row.gigaflops),
        "peak MB": _number(row.peak_megabytes),
        "note": row.note,
    }


def _number(value: float | None) -> str:
    """Three significant digits, or all of the whole number."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
