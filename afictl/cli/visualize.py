"""``afictl visualize``: pictures of what detectors do."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options

app = typer.Typer(help="Draw what detectors do.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep ``detections`` a subcommand while it is the only one."""


@app.command()
def detections(
    weights: Annotated[
        list[Path], typer.Option("--weights", help="Run folder or checkpoint file. Repeat it to compare.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set in COCO layout; its ground truth is drawn too.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Image file or folder, instead of --data. Repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Draw only the first images.")] = 8,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="Score from which a detection is drawn.")
    ] = 0.5,
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw ground truth and the detections of several weights side by side, one PNG an image.

    The files are named by image id, or with --images by file name.
    The default folder is detections/ in the run of the first weights.
    """
    from rich.console import Console

    from afictl.cli.progress import show_progress
    from afictl.data import CocoIndex, load_coco
    from afictl.errors import UserError
    from afictl.training import Hardware, launch
    from afictl.visualization import Picture, draw_comparisons, file_pictures, run_names

    if (data is None) == (not images):
        raise UserError("pass either --data DIR or --images PATH")
    source: CocoIndex | list[Picture] = load_coco(data, split) if data else file_pictures(images or [])
    first = weights[0] if weights[0].is_dir() else weights[0].parent
    folder = output or first / "detections"
    console = Console(soft_wrap=True)
    device = launch(Hardware(devices="1")).device
    named = dict(zip(run_names(weights), weights, strict=True))
    with show_progress(console, "drawn") as progress:
        files = draw_comparisons(
            named, source, folder, limit=limit, threshold=threshold, device=device, progress=progress
        )
    typer.echo(f"{len(files)} picture{'' if len(files) == 1 else 's'}: {folder}")
