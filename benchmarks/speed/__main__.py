"""Speed table of afictl: ``python -m benchmarks.speed [PART ...]``.

Parts: ``interpolator`` (against the plain form of its arithmetic), ``stage1`` (a training step, against a plain loop),
``detectors`` (Mask R-CNN, against torchvision and detectron2, and the learned interpolators in it), ``startup`` and
``growth`` (time against the size of the workload). All without PART.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from afictl.errors import UserError
from benchmarks.results import run_benchmark, write_results
from benchmarks.speed.detectors import measure_detectors
from benchmarks.speed.growth import Curve, growth_table, measure_growth, plot_growth
from benchmarks.speed.interpolator import measure_interpolator
from benchmarks.speed.machine import Machine, describe_machine, measure_machine
from benchmarks.speed.rows import SpeedRow, failure_note, speed_table
from benchmarks.speed.stage1 import measure_stage1
from benchmarks.speed.startup import measure_startup

_ROWS: dict[str, Callable[[Machine], Iterator[list[SpeedRow]]]] = {
    "interpolator": measure_interpolator,
    "stage1": measure_stage1,
    "detectors": measure_detectors,
    "startup": measure_startup,
}
_GROWTH = "growth"
_WIDTH = 160
"""Characters of a line, unless a terminal decides."""


_LEGEND = """ms: median; +-: interquartile range of the rounds
speed: time of the alternative after it, divided by this time
of roof: rate of convolutions and matrix products as share of the roof
error: largest difference from the plain form in fp32; of gradients its root mean square; in standard deviations
peak MB: beyond weights and inputs"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table of each part, and write the numbers as JSON."""
    options = _parse(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    start = time.perf_counter()
    machine = measure_machine(torch.device(options.device), options.short)
    _print_machine(console, machine)
    rows: list[SpeedRow] = []
    curves: list[Curve] = []

    def save() -> None:
        growth = [{**asdict(curve), "exponent": curve.fit[0]} for curve in curves]
        results = {"machine": describe_machine(machine), "rows": list(map(asdict, rows)), "growth": growth}
        write_results(options.json, results)

    for part in options.parts:
        try:
            if part == _GROWTH:
                for curve in measure_growth(machine):
                    curves.append(curve)
                    console.print(growth_table([curve]))
                    save()
                _plot_curves(curves, console, options.json)
            else:
                for group in _ROWS[part](machine):
                    rows += group
                    console.print(speed_table(group))
                    save()
        except Exception as error:  # of any library: the other parts are measured
            rows.append(SpeedRow(part, part, "", "", note=failure_note(error)))
            console.print(speed_table(rows[-1:]))
            console.print_exception()
    console.print(f"{time.perf_counter() - start:.0f} s")
    save()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = (*_ROWS, _GROWTH)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; default: all")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help=f"default here: {device}")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU; default: torch's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE, and plots beside it")
    parser.add_argument("--short", action="store_true", help="smallest workloads, one round: tries the program only")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in parts:
            raise UserError(f"{part}: not a part; parts are {', '.join(parts)}")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads must be at least 1 (got {options.threads})")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here")
    options.parts = options.parts or list(parts)
    return options


def _print_machine(console: Console, machine: Machine) -> None:
    description = describe_machine(machine)
    tf32 = "TF32" if description["tf32"] else "without TF32"
    threads = f"convolutions {tf32}" if machine.device.type == "cuda" else f"{description['threads']} threads"
    console.print(f"{description['device']}, {threads}, torch {description['torch']}")
    for precision, roof in machine.roofs.items():
        console.print(f"roof in {precision}: {roof.gflops:,.0f} GFLOP/s, 3x3 convolution of {roof.convolution}")
    console.print(_LEGEND)


def _plot_curves(curves: Sequence[Curve], console: Console, json: Path | None) -> None:
    """Plot the growth, beside ``json``."""
    if json is not None:
        plot_growth(curves, path := json.with_name(f"{json.stem}-growth.png"))
        console.print(f"plot: {path}")


if __name__ == "__main__":
    run_benchmark(main)
