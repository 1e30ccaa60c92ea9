"""``afictl demo``: guide, pre-training and comparison on generated data."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_folder


def demo_command(
    output: Annotated[Path, typer.Option("--output", callback=parse_output_folder, help="Folder to write to.")] = Path(
        "afictl-demo"
    ),
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Train a guide, pre-train AFI and compare it with nearest, on generated data.

    Takes minutes on a laptop. A guide is trained from scratch, the AF interpolator is pre-trained on its features, and
    the detector is fine-tuned with nearest and with AFI. The same command continues an interrupted demo.
    """
    from rich.console import Console

    from afictl.comparison import comparison_notes, comparison_tables
    from afictl.comparison.shapes_demo import run_demo
    from afictl.training import launch_single

    comparison = run_demo(launch_single(), output, seed=seed)
    Console().print(*comparison_tables(comparison))
    for line in comparison_notes(comparison):
        typer.echo(line)
    for name, description in (
        ("compare/report.html", "the comparison with plots and pictures, for a browser"),
        ("plots/", "losses, accuracy, and feature distances of stage 1"),
        ("detections/", "ground truth and detections of both detectors, side by side"),
        ("pretrain/interpolator.safetensors", "the interpolator, for --interpolator of any 64-channel preset"),
    ):
        typer.echo(f"{output / name}: {description}")
