"""``afictl convert``: conversion of other projects' checkpoints to safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_file


def convert_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint file, or a run folder.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", callback=parse_output_file, help="File to write, ending in .safetensors.")
    ],
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class names: a,b,c, or a .json file with a list of names or COCO annotations."),
    ] = None,
    overrides: options.Overrides = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Load the tensors that fit; all others get random values.")
    ] = False,
    rgb: Annotated[
        bool,
        typer.Option("--rgb", help="The detectron2 model takes RGB images divided by ImageNet's deviation."),
    ] = False,
    averaged: options.Averaged = None,
    debug: options.Debug = False,
) -> None:
    """Convert a detector, backbone, interpolator or discriminator of another project to one safetensors file.

    Recognised by content: detectron2's FPN detectors (the model zoo's .pkl, and .pth), AFI-GAN's detectors, extractor,
    generator and discriminator, torchvision's detectors, mmdetection's Faster and Mask R-CNN, ImageNet backbones of
    timm and detectron2, and afictl's own. A detector's preset is derived from the tensors; --set gives keys that
    they do not determine, such as backbone.stride_in_1x1=false for a model trained from torchvision's backbone (which
    usually needs --rgb too). No code in the file is executed.
    """
    from afictl.weights.conversion import convert

    lines = convert(
        source,
        target,
        classes=classes,
        settings=overrides or (),
        partial=partial,
        rgb=rgb,
        averaged=averaged,
    )
    for line in lines:
        typer.echo(line)
