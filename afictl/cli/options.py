"""The flags that several commands share, with one meaning everywhere."""

from pathlib import Path
from typing import Annotated

import typer

PresetName = Annotated[str, typer.Option("--preset", help="Preset name (see 'afictl model list') or YAML file.")]
Data = Annotated[
    Path, typer.Option("--data", help="Data set in COCO layout: DIR/{train,val}[2017]/ and DIR/annotations/.")
]
Weights = Annotated[Path, typer.Option("--weights", help="Run folder or checkpoint file.")]
Interpolator = Annotated[
    str | None,
    typer.Option(
        "--interpolator",
        help="Kind (nearest, bilinear, ..., afi), a run of pretrain, or an interpolator file.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", help="Folder to write to.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a preset key, e.g. train.lr=0.01. Repeatable.")
]
Devices = Annotated[str, typer.Option("--devices", help="Number of devices, or 'auto' for all.")]
Nodes = Annotated[int, typer.Option("--nodes", help="Number of machines.")]
Precision = Annotated[str, typer.Option("--precision", help="32-true, bf16-mixed or 16-mixed.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of weights, data order and augmentation.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --output where it stopped.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
