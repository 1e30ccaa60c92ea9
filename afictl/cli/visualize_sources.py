"""Options, images, weights and output shared by the subcommands of ``afictl visualize``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import require_writable
from afictl.cli.runs import data_of_detector, folder_of
from afictl.errors import UserError
from afictl.files import require_no_link

if TYPE_CHECKING:
    import torch

    from afictl.data import Dataset
    from afictl.evaluation.views import Views
    from afictl.visualization import NamedDetectors, Picture
    from afictl.visualization.figure import Figure

    Source = Dataset | list[Picture]

DEFAULT_LIMIT = 8


def _parse_format(value: str) -> str:
    if value not in ("png", "html"):
        raise typer.BadParameter(f"{value} is not png or html")
    return value


Weights = Annotated[
    list[Path],
    typer.Option("--weights", help="Run folder or checkpoint, also of detectron2 or AFI-GAN. Repeat it to compare."),
]
Data = Annotated[Path | None, typer.Option("--data", help="Dataset. Default: that of the first run.")]
Split = Annotated[str, typer.Option("--split", help="train, val or test.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images", help="Image file, or folder of images with its subfolders, instead of --data. Repeatable."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        max=options.COUNT_MAX,
        help=f"Maximum number of images. Default: {DEFAULT_LIMIT} of a dataset, all of --images.",
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        callback=options.require_finite,
        help="Minimum score of drawn detections.",
    ),
]
Format = Annotated[
    str,
    typer.Option("--format", callback=_parse_format, help="png: one picture per image; html: one page with all."),
]


def load_source(
    context: typer.Context, data: Path | None, split: str, images: Sequence[Path] | None, run: Path
) -> Source:
    """Load the images of ``--data`` or ``--images``, by default the dataset of ``run``.

    Raises:
        UserError: both options, ``--split`` with ``--images``, or images that do not exist.
    """
    from afictl.data import load_dataset
    from afictl.data.layouts import describe_data
    from afictl.visualization import file_pictures

    if data and images:
        raise UserError("pass --data DIR or --images PATH, not both")
    if images:
        options.refuse_flags(context, "with --images, which have no splits", "--split")
        return file_pictures(images)
    source = data or data_of_detector(run)
    dataset = load_dataset(source, split)
    typer.echo(describe_data(source, {split: len(dataset)}))
    return dataset


def select_pictures(source: Source, limit: int | None) -> list[Picture]:
    """The first ``limit`` images of ``source``; all for None.

    Raises:
        UserError: one of them cannot be read.
    """
    from afictl.data.image_listing import require_images
    from afictl.visualization import dataset_pictures
    from afictl.visualization.pictures import require_readable

    if isinstance(source, list):
        pictures = source[:limit]
    else:
        require_images(source, range(len(source))[:limit])
        pictures = dataset_pictures(source, limit)
    require_readable(pictures)
    return pictures


def default_limit(source: Source, limit: int | None) -> int | None:
    """``limit``, or by default ``DEFAULT_LIMIT`` for a dataset and None for ``--images``."""
    return limit or (None if isinstance(source, list) else DEFAULT_LIMIT)


def figure_folder(output: Path | None, runs: Sequence[Path], kind: str) -> Path:
    """``output``, or by default the folder ``kind`` in the first run, which is told if there are others.

    Raises:
        UserError: the folder is not writable.
    """
    run = folder_of(runs[0])
    folder = output or run / kind
    if output is None:
        require_no_link(folder, run)
        if len(runs) > 1:
            typer.echo(f"note: without --output the pictures of all {len(runs)} go to {folder}, in the first")
    require_writable(folder, "--output")
    return folder


def first_device() -> torch.device:
    """The first GPU, else the CPU."""
    from afictl.training import launch_single

    return launch_single().device


def load_detectors(
    weights: Sequence[Path],
    source: Source,
    threshold: float,
    partial: bool,
    averaged: bool | None,
    views: Views | None = None,
) -> NamedDetectors:
    """Load the detectors, which detect in ``views``, by unique names, and print a report of each.

    Raises:
        UserError: weights that cannot be read, or a detector with other classes than the dataset's.
    """
    from afictl.visualization import NamedDetectors, run_names
    from afictl.weights import load_detector

    detectors = {}
    for name, path in zip(run_names(weights), weights, strict=True):
        loaded = detectors[name] = load_detector(path, partial=partial, averaged=averaged)
        typer.echo(f"{path}: {loaded.report}")
        min_score = loaded.preset.detector.score_threshold
        if threshold < min_score:
            typer.echo(
                f"note: --threshold {threshold:g}: {path} gives only detections with a score of at least {min_score:g},"
                " its detector.score_threshold"
            )
    return NamedDetectors.of(detectors, source, first_device(), views)


def write_with_progress(figures: Iterable[Figure], folder: Path, kind: str, form: str, title: str, total: int) -> int:
    """Write the figures with a progress bar, print their location and return their number."""
    from rich.console import Console

    from afictl.progress import show_progress
    from afictl.visualization.figure_files import write_figures

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
