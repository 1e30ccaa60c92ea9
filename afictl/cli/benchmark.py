"""``afictl benchmark``: speed and memory beside the libraries that users would take otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import output_file, write_json

app = typer.Typer(
    name="benchmark",
    help="Measure speed and memory beside other libraries, in the same run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


JsonFile = Annotated[Path | None, typer.Option("--json", callback=output_file, help="Write all figures to this file.")]


@app.command()
def data(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--data", help="Data set in COCO layout: also measure loading of its images.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of --data whose images are loaded.")] = "train",
    scale: Annotated[
        float,
        typer.Option(
            "--scale",
            min=0.0,
            max=1.0,
            callback=options.finite,
            help="Size of the generated annotation file, as a fraction of COCO's.",
        ),
    ] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each measurement; the best one counts.")] = 2,
    count: Annotated[int, typer.Option("--count", min=1, help="Images that each loader reads in a turn.")] = 200,
    json_file: JsonFile = None,
    debug: options.Debug = False,
) -> None:
    """Measure the reading of annotations of COCO's size, and the loading of images for training.

    Annotations are generated in a temporary folder and read by pycocotools and by afictl, without a cache, from the
    cache, and by eight processes at once. Loaders take turns on one worker: afictl's, torchvision's reference
    transforms, and detectron2's where it is installed.
    """
    from rich.console import Console

    from afictl.comparison.benchmarks.data import benchmark_data, tables

    if folder is None:
        options.refuse(context, "without --data: they are about the loading of images", "--split", "--count")

    console = Console()
    figures = benchmark_data(folder, split, scale=scale, rounds=rounds, images=count, say=console.print)
    for table in tables(figures):
        console.print(table)
    if json_file:
        write_json(json_file, figures)


@app.command()
def interpolators(
    kinds: Annotated[str | None, typer.Option("--interpolators", help="Kinds, comma between; all without it.")] = None,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the maps.")] = 256,
    height: Annotated[int, typer.Option(min=1, help="Rows of the coarse map.")] = 100,
    width: Annotated[int, typer.Option(min=1, help="Columns of the coarse map.")] = 168,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each measurement; the median counts.")] = 5,
    json_file: JsonFile = None,
    debug: options.Debug = False,
) -> None:
    """Measure every interpolator on one map in float32: milliseconds, memory, multiply-adds, parameters.

    They take turns, on the first GPU where there is one. Memory is the most that is held at once beside weights and
    input, counted in tensors on a CPU.
    """
    from dataclasses import asdict

    from rich.console import Console

    from afictl.comparison.benchmarks.interpolators import benchmark_interpolators, table
    from afictl.interpolators import interpolator_kinds
    from afictl.progress import show_progress

    console = Console()
    chosen = [kind.strip() for kind in kinds.split(",")] if kinds else interpolator_kinds()
    with show_progress(console, "interpolators") as progress:
        figures = benchmark_interpolators(chosen, channels, (height, width), rounds, progress)
    console.print(table(figures, channels, (height, width)))
    if json_file:
        write_json(json_file, [asdict(each) for each in figures])


@app.command()
def metric(
    count: Annotated[int, typer.Option(min=1, help="Generated images, with 100 detections each.")] = 5000,
    masks: Annotated[bool, typer.Option("--masks", help="Measure the mask metric too.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each measurement; the best one counts.")] = 1,
    json_file: JsonFile = None,
    debug: options.Debug = False,
) -> None:
    """Measure the COCO metric beside pycocotools, from files to numbers: time, memory and the worst difference."""
    from rich.console import Console

    from afictl.comparison.benchmarks.metric import benchmark_metric, metric_table

    console = Console()
    figures = benchmark_metric(count, masks, rounds=rounds, say=console.print)
    console.print(metric_table(figures))
    if json_file:
        write_json(json_file, figures)
