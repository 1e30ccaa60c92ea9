"""``afictl data show``: a page of pictures, sizes and classes of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_file
from afictl.errors import UserError

_MAX_PICTURES = 1000


def show_dataset(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or YAML file.")],
    output: Annotated[
        Path,
        typer.Option("--output", callback=parse_output_file, help="Page to write, ending in .html; must be absent."),
    ],
    preset: Annotated[str | None, options.PRESET] = None,
    overrides: options.Overrides = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
    number: Annotated[int, typer.Option("--number", min=1, max=_MAX_PICTURES, help="Maximum number of pictures.")] = 12,
    debug: options.Debug = False,
) -> None:
    """Write an HTML page of a dataset: pictures with boxes and masks, sizes of objects, classes, sizes of images.

    With --preset, the page shows the sizes of the objects after resizing, beside the levels and anchors of a detector,
    and says what to do where most objects are too small for it.
    """
    from rich.console import Console

    from afictl.data.layouts import describe_data, load_dataset
    from afictl.presets import load_preset
    from afictl.progress import show_progress
    from afictl.visualization.dataset_page import write_dataset_page

    if output.suffix != ".html":
        raise UserError(f"--output {output}: name a file that ends in .html")
    if output.is_file():
        raise UserError(f"--output {output} is in use: choose another file")
    if overrides and preset is None:
        raise UserError("--set has no effect without --preset")
    loaded = load_preset(preset, overrides or ()) if preset is not None else None
    dataset = load_dataset(data, split)
    output.parent.mkdir(parents=True, exist_ok=True)
    with show_progress(Console(soft_wrap=True), "pictures") as progress:
        write_dataset_page(data, split, dataset, output, preset=loaded, number=number, progress=progress)
    typer.echo(describe_data(data, {split: len(dataset)}))
    typer.echo(f"page: {output}")
