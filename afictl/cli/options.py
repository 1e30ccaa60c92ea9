"""The flags that several commands share, with one meaning everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _known_precision(value: str) -> str:
    if value not in PRECISIONS:
        raise typer.BadParameter(f"{value} is not {_either(PRECISIONS)}")
    return value


def no_file(value: Path | None) -> Path | None:
    """Refuse an ``--output`` that is a file."""
    if value is not None and value.is_file():
        raise UserError(f"{value} is a file; --output is a folder")
    return value


PRESET = typer.Option("--preset", help="Preset name (see 'afictl model list') or YAML file.")
DATA = typer.Option("--data", help="Data set in COCO layout: DIR/{train,val}[2017]/ and DIR/annotations/.")
PresetName = Annotated[str, PRESET]
Data = Annotated[Path, DATA]
StartWeights = Annotated[
    Path | None,
    typer.Option("--weights", help="Detector to start from: run folder or checkpoint, also detectron2's or AFI-GAN's."),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Take of --weights what fits; the rest keeps its fresh random weights.")
]
BackboneWeights = Annotated[
    Path | None,
    typer.Option("--backbone-weights", help="Local backbone file instead of the ImageNet download."),
]
Interpolator = Annotated[
    str | None,
    typer.Option(
        "--interpolator",
        help="Kind (nearest, bilinear, ..., afi), a run of pretrain, or a file with an interpolator in it.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", callback=no_file, help="Folder to write to.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a preset key, e.g. train.lr=0.01. Repeatable.")
]
Devices = Annotated[str, typer.Option("--devices", help="Number of devices of each machine, or 'auto' for all.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Number of machines.")]
Precision = Annotated[
    str, typer.Option("--precision", callback=_known_precision, help=f"Number format: {_either(PRECISIONS)}.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of weights, data order and augmentation.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --output where it stopped, if there is one.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
