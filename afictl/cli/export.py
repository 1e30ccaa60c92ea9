"""``afictl export``: a detector or an interpolator as a file for deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_file
from afictl.cli.tables import wide_console
from afictl.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from afictl.export.files import Check
    from afictl.presets import InputConfig

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Formats -> suffix of their files."""
PARTS = ("detector", "interpolator")


def _parse_format(value: str) -> str:
    if value not in FORMATS:
        raise typer.BadParameter(f"{value} is not {' or '.join(FORMATS)}")
    return value


def _parse_part(value: str) -> str:
    if value not in PARTS:
        raise typer.BadParameter(f"{value} is not {' or '.join(PARTS)}")
    return value


def export_command(
    context: typer.Context,
    weights: Annotated[
        Path, typer.Option("--weights", help="Run folder, or file of a detector or of an interpolator.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", callback=parse_output_file, help="File to write, .onnx, or .pt2 for torch-export."),
    ],
    form: Annotated[
        str, typer.Option("--format", callback=_parse_format, help="Format of the file: onnx or torch-export.")
    ] = "onnx",
    part: Annotated[
        str, typer.Option("--part", callback=_parse_part, help="The whole detector, or its interpolator alone.")
    ] = "detector",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Dataset whose first validation image is compared. Default: the run's."),
    ] = None,
    averaged: options.Averaged = None,
    debug: options.Debug = False,
) -> None:
    """Write a trained detector, or its interpolator, as an ONNX file or a program of torch.export.

    The detector takes one image, float32 (3, height, width), RGB in 0..1, and gives boxes in its pixels,
    labels, scores and masks; normalisation, padding and suppression are inside. The file is run on images with and
    without objects and compared with PyTorch; it is kept only if the results agree.
    """
    if output.suffix != FORMATS[form]:
        raise UserError(f"--output {output}: a file of --format {form} ends in {FORMATS[form]}")
    if part == "interpolator":
        options.refuse_flags(context, "with --part interpolator", "--data")

    from afictl.export.formats import require_format

    require_format(form)

    from afictl.export.files import export_detector, export_interpolator
    from afictl.weights import load_detector, load_interpolator

    if part == "interpolator":
        checks = export_interpolator(load_interpolator(weights, averaged=averaged), form, output)
    else:
        loaded = load_detector(weights, averaged=averaged)
        typer.echo("conversion and comparison with PyTorch: a minute or more", err=True)
        checks = export_detector(loaded, form, output, _validation_image(weights, data, loaded.preset.input))
    console = wide_console()
    console.print(_table(checks))
    console.print(f"{output}: {output.stat().st_size / 1e6:.2f} MB", highlight=False)


def _validation_image(weights: Path, data: Path | None, config: InputConfig) -> dict[str, Tensor]:
    """The first validation image at test size, by its name; nothing, with a note, if the run's data is not there."""
    from afictl.cli.runs import data_of
    from afictl.data.images import read_image
    from afictl.data.layouts import load_dataset
    from afictl.data.transforms import resize_for

    try:
        file = load_dataset(data or data_of(weights), "val").image_path(0)
        return {file.name: resize_for(config, read_image(file))}
    except (UserError, OSError) as error:
        if data is not None:
            raise
        typer.echo(f"note: without a validation image in the comparison ({error})", err=True)
        return {}


def _table(checks: list[Check]) -> Table:
    """The largest differences to PyTorch, a row for each input."""
    from rich.markup import escape
    from rich.table import Table

    names = list(checks[0].differences)
    counts = checks[0].detections is not None
    table = Table(title="Largest difference to PyTorch", box=None)
    for heading in ("input", "size", *(["detections"] * counts), *names):
        table.add_column(heading, justify="left" if heading == "input" else "right", overflow="fold")
    for check in checks:
        size = f"{check.size_hw[1]}x{check.size_hw[0]}"
        cells = (f"{check.differences[name]:.2g}" for name in names)
        table.add_row(escape(check.name), size, *([str(check.detections)] * counts), *cells)
    return table
