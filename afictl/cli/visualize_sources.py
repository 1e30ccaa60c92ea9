"""What the subcommands of ``afictl visualize`` share: their options, and the images that these name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import require_writable
from afictl.cli.runs import data_of, folder_of
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.data import Dataset
    from afictl.visualization import Picture
    from afictl.visualization.figure import Figure
    from afictl.weights import LoadedDetector

PICTURES = 8


def _known_format(value: str) -> str:
    if value not in ("png", "html"):
        raise typer.BadParameter(f"{value} is not png or html")
    return value


Weights = Annotated[
    list[Path],
    typer.Option("--weights", help="Run folder or checkpoint, also detectron2's or AFI-GAN's. Repeat it to compare."),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Data set in COCO layout; default: the one of the first run.")
]
Split = Annotated[str, typer.Option("--split", help="train, val or test.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images", help="Folder of images, its subfolders too, or image file; instead of --data. Repeatable."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, help=f"Draw only so many images; default: {PICTURES} of a data set, all of --images."
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold", min=0.0, max=1.0, callback=options.finite, help="Score from which a detection is drawn."
    ),
]
Format = Annotated[
    str, typer.Option("--format", callback=_known_format, help="png: a picture an image; html: one page with all.")
]


def source_of(
    context: typer.Context, data: Path | None, split: str, images: Sequence[Path] | None, run: Path
) -> Dataset | list[Picture]:
    """The images that ``--data`` or ``--images`` names, or those of the data set of ``run``.

    Raises:
        UserError: both are given, or a split of ``--images``, or nothing is there.
    """
    from afictl.data import load_coco
    from afictl.visualization import file_pictures

    if data and images:
        raise UserError("pass --data DIR or --images PATH, not both")
    if images:
        options.refuse_flags(context, "with --images, which have no splits", "--split")
        return file_pictures(images)
    return load_coco(data or data_of(run), split)


def pictures_of(source: Dataset | list[Picture], limit: int | None = None) -> list[Picture]:
    """The first ``limit`` images of ``source``."""
    from afictl.data import Dataset
    from afictl.visualization import data_pictures

    return data_pictures(source, limit) if isinstance(source, Dataset) else source[:limit]


def limit_of(source: Dataset | list[Picture], limit: int | None) -> int | None:
    """How many images to draw: as said, else some of a data set and all of named files."""
    return limit or (None if isinstance(source, list) else PICTURES)


def output_of(output: Path | None, run: Path, kind: str) -> Path:
    """The folder to write to: ``output``, or the one called ``kind`` in the run.

    Raises:
        UserError: nothing can be written there.
    """
    folder = output or folder_of(run) / kind
    require_writable(folder, "--output")
    return folder


def reader(threshold: float, partial: bool) -> Callable[[Path], LoadedDetector]:
    """Reads detectors and says what was loaded, and if they never score as low as ``threshold``."""
    from afictl.weights import load_detector

    def load(path: Path) -> LoadedDetector:
        loaded = load_detector(path, partial=partial)
        typer.echo(f"{path}: {loaded.report}")
        lowest = loaded.preset.detector.score_threshold
        if threshold < lowest:
            typer.echo(f"{path}: has no detections below {lowest}, its detector.score_threshold")
        return loaded

    return load


def write(figures: Iterable[Figure], folder: Path, kind: str, form: str, title: str, total: int) -> int:
    """Write the figures with a bar of their progress, say where they are if there are any, and return their number."""
    from rich.console import Console

    from afictl.progress import show_progress
    from afictl.visualization.output import write_figures

    count = 0

    def counted() -> Iterator[Figure]:
        nonlocal count
        for figure in figures:
            yield figure
            count += 1

    with show_progress(Console(soft_wrap=True), "drawn") as progress:
        files = write_figures(counted(), folder, kind, form=form, title=title, total=total, progress=progress)
    if count:
        typer.echo(f"{count} picture{'' if count == 1 else 's'}: {files[0] if form == 'html' else folder}")
    return count
