"""``afictl benchmark``: speed and memory of the interpolators on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_file, write_json

app = typer.Typer(
    name="benchmark",
    help="Measure speed and memory on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Keep ``interpolators`` a subcommand: typer turns an application of one command into the command itself."""


@app.command("interpolators")
def measure_interpolators(
    kinds: Annotated[str | None, typer.Option("--interpolators", help="Comma-separated kinds. Default: all.")] = None,
    channels: Annotated[int, typer.Option(min=1, max=4096, help="Channels of the maps.")] = 256,
    height: Annotated[int, typer.Option(min=1, max=8192, help="Rows of the coarse map.")] = 100,
    width: Annotated[int, typer.Option(min=1, max=8192, help="Columns of the coarse map.")] = 168,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions; the median is reported.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=parse_output_file, help="Write all numbers to this file.")
    ] = None,
    precision: options.Precision = "auto",
    debug: options.Debug = False,
) -> None:
    """Measure interpolators on one map: milliseconds, memory, multiply-adds, parameters.

    Runs on the first GPU, or else on the CPU; the kinds alternate, so that other load affects all alike. Memory is the
    peak beyond weights and input, on a CPU the sum of all tensors.
    """
    from dataclasses import asdict

    from rich.console import Console

    from afictl.comparison.analysis.cost_columns import timing_note
    from afictl.comparison.cost.interpolator_benchmark import benchmark_interpolators, interpolator_table
    from afictl.distributed import Runtime
    from afictl.interpolators import interpolator_kinds
    from afictl.progress import show_progress
    from afictl.training import launch_single
    from afictl.training.hardware import hardware_record

    console = Console()
    requested = [kind.strip().removeprefix("kind:") for kind in kinds.split(",")] if kinds else interpolator_kinds()
    fabric = launch_single(precision)
    fabric.print_precision_note()
    runtime, resolved = Runtime.of_fabric(fabric, workers=0), str(hardware_record(fabric)["precision"])
    with show_progress(console, "interpolators") as progress:
        costs = benchmark_interpolators(requested, channels, (height, width), rounds, progress, runtime)
    console.print(interpolator_table(costs, channels, (height, width), resolved))
    if note := timing_note(cost.scatter for cost in costs):
        console.print(note)
    if json_file:
        write_json(json_file, [asdict(cost) | {"precision": resolved} for cost in costs], named_by_user=True)
