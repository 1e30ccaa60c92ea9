"""``afictl visualize``: pictures of what detectors do."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from afictl.cli import options
from afictl.cli.runs import data_of, folder_of

_PICTURES = 8


class _DetectionsFirst(TyperGroup):
    """Takes options without a subcommand as those of ``detections``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["detections", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    help="Draw what detectors do; without a subcommand, their detections.",
    cls=_DetectionsFirst,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Keep ``detections`` a subcommand while it is the only one."""


@app.command()
def detections(
    weights: Annotated[
        list[Path],
        typer.Option(
            "--weights", help="Run folder or checkpoint, also detectron2's or AFI-GAN's. Repeat it to compare."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set in COCO layout; default: the one of the first run.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Image file or folder, instead of --data. Repeatable."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Draw only the first images; default: 8 of a data set, all of --images."),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="Score from which a detection is drawn.")
    ] = 0.5,
    partial: options.Partial = False,
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw ground truth and detections side by side.

    One PNG an image, with a panel for each of the weights, named by image id, or with --images by file name.
    The default folder is detections/ in the run of the first weights.
    """
    from rich.console import Console

    from afictl.cli.progress import show_progress
    from afictl.data import CocoIndex, load_coco
    from afictl.errors import UserError
    from afictl.training import Hardware, launch
    from afictl.visualization import Picture, draw_comparisons, file_pictures, run_names
    from afictl.weights import LoadedDetector, load_detector

    def load(path: Path) -> LoadedDetector:
        loaded = load_detector(path, partial=partial)
        typer.echo(f"{path}: {loaded.report}")
        lowest = loaded.preset.detector.score_threshold
        if threshold < lowest:
            typer.echo(f"{path}: has no detections below {lowest}, its detector.score_threshold")
        return loaded

    if data and images:
        raise UserError("pass --data DIR or --images PATH, not both")
    folder = output or folder_of(weights[0]) / "detections"
    source: CocoIndex | list[Picture]
    source = file_pictures(images) if images else load_coco(data or data_of(weights[0]), split)
    if not images:
        limit = limit or _PICTURES
    console = Console(soft_wrap=True)
    device = launch(Hardware(devices="1")).device
    named = dict(zip(run_names(weights), weights, strict=True))
    with show_progress(console, "drawn") as progress:
        files = draw_comparisons(
            named, source, folder, limit=limit, threshold=threshold, device=device, progress=progress, load=load
        )
    typer.echo(f"{len(files)} picture{'' if len(files) == 1 else 's'}: {folder}")
