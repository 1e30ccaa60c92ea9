"""``afictl compare``: the same training with several interpolators, then accuracy and price side by side."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.runs import tidy
from afictl.errors import UserError


def compare(
    preset: options.PresetName,
    data: options.Data,
    interpolators: Annotated[
        str,
        typer.Option("--interpolators", help="Kinds, or NAME=RUN of pretrain, e.g. nearest,bilinear,afi=RUN."),
    ] = "nearest,bilinear,bicubic,afi",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of each interpolator, with the seeds from --seed on.")
    ] = 1,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Name of what the others are compared with. Default: nearest, or the first."),
    ] = None,
    weights: options.StartWeights = None,
    backbone_weights: options.BackboneWeights = None,
    output: options.Output = None,
    settings: options.Settings = None,
    devices: options.Devices = "auto",
    spread: Annotated[
        bool, typer.Option("--spread", help="One run on each of the --devices, side by side, not one run on all.")
    ] = False,
    nodes: options.Nodes = 1,
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Fine-tune with several interpolators, all else alike.

    Within a seed, data order, augmentation, schedule and the start weights of all other parts are the same. Writes a
    run for each interpolator and seed, NAME/seedK, and comparison.json, comparison.csv and runs.csv; the default folder
    is runs/compare-PRESET. The same command again goes on where it stopped and does not repeat what is finished;
    interpolators and seeds may be added to it.
    """
    from afictl.comparison import compare, comparison_tables, notes, parse_contenders
    from afictl.comparison.spread import require_devices
    from afictl.presets import load_preset
    from afictl.training import Hardware, launch

    resolved = load_preset(preset, settings or ())
    contenders = parse_contenders(interpolators)
    folder = output or Path("runs") / f"compare-{tidy(resolved.name)}"
    if spread and nodes > 1:
        raise UserError("--spread: runs are spread over the devices of one machine; leave --nodes out")
    at_once = require_devices(devices) if spread else 1
    fabric = launch(Hardware("1" if spread else devices, nodes, precision), [resolved.train.batch_size])
    answer = compare(
        fabric,
        resolved,
        data,
        contenders,
        folder,
        seeds=range(seed, seed + seeds),
        baseline=baseline,
        weights=weights,
        backbone_weights=backbone_weights,
        spread=at_once,
    )
    if answer.comparison is not None:
        from rich.console import Console

        Console().print(*comparison_tables(answer.comparison))
        for line in notes(answer.comparison):
            typer.echo(line)
        typer.echo(f"tables: {folder / 'comparison.json'}, {folder / 'comparison.csv'}")
    if answer.failures:
        told = "; ".join(f"{name}: {problem}" for name, problem in answer.failures.items())
        raise UserError(f"{len(answer.failures)} runs failed, which the same command tries again: {told}")
