"""``afictl compare``: the same training with several interpolators, then accuracy and price side by side."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.runs import tidy


def compare(
    preset: options.PresetName,
    data: options.Data,
    interpolators: Annotated[
        str,
        typer.Option("--interpolators", help="Kinds, or NAME=RUN of pretrain, e.g. nearest,bilinear,afi=RUN."),
    ] = "nearest,bilinear,bicubic,afi",
    weights: options.StartWeights = None,
    backbone_weights: options.BackboneWeights = None,
    output: options.Output = None,
    settings: options.Settings = None,
    devices: options.Devices = "auto",
    nodes: options.Nodes = 1,
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Fine-tune with several interpolators, all else alike.

    Data order, augmentation, schedule, seed and the start weights of all other parts are the same. Writes one run for
    each interpolator, comparison.json and comparison.csv; the default folder is runs/compare-PRESET. The same command
    again goes on where it stopped and does not repeat what is finished.
    """
    from afictl.comparison import compare, comparison_tables, parse_contenders
    from afictl.presets import load_preset
    from afictl.training import Hardware, launch

    resolved = load_preset(preset, settings or ())
    contenders = parse_contenders(interpolators)
    folder = output or Path("runs") / f"compare-{tidy(resolved.name)}"
    fabric = launch(Hardware(devices, nodes, precision), [resolved.train.batch_size])
    rows = compare(
        fabric,
        resolved,
        data,
        contenders,
        folder,
        weights=weights,
        backbone_weights=backbone_weights,
        seed=seed,
    )
    if fabric.is_global_zero:
        from rich.console import Console

        Console().print(*comparison_tables(rows))
        typer.echo(f"tables: {folder / 'comparison.json'}, {folder / 'comparison.csv'}")
