"""``afictl visualize``: figures of detections, features, Grad-CAM and training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from afictl.cli import options
from afictl.cli import visualize_sources as sources
from afictl.cli.runs import folder_of
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.visualization import Picture
    from afictl.visualization.named_models import NamedDetectors

_OnlyDifferent = Annotated[
    bool,
    typer.Option("--only-different", help="Draw the images on which the detectors disagree most."),
]
_Guide = Annotated[Path, typer.Option("--guide", help="Detector that gives the features: run folder or checkpoint.")]
_Interpolators = Annotated[
    list[str] | None,
    typer.Option(
        "--interpolator",
        help="Kind, or run or file with a learned interpolator. Repeatable. Default: nearest, bilinear, bicubic.",
    ),
]
_InterpolatorWeights = Annotated[
    list[Path] | None,
    typer.Option("--weights", help="Run folder or checkpoint whose interpolator is drawn too. Repeatable."),
]
_Levels = Annotated[str | None, typer.Option("--levels", help="Pyramid levels, e.g. p2,p3. Default: all.")]


class _DetectionsFirst(TyperGroup):
    """Command group in which options without a subcommand are those of ``detections``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["detections", *args]
        if args and args[0] not in self.commands and Path(args[0]).exists():
            raise UserError(
                f"{args[0]}: name what to draw of it, such as: afictl visualize detections --weights {args[0]}"
            )
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    help="Draw detections, features, Grad-CAM or training curves. Options without a command are those of detections.",
    cls=_DetectionsFirst,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("detections")
def visualize_detections(
    context: typer.Context,
    weights: sources.Weights,
    data: sources.Data = None,
    split: sources.Split = "val",
    images: sources.Images = None,
    limit: sources.Limit = None,
    threshold: sources.Threshold = 0.5,
    only_different: _OnlyDifferent = False,
    tile_size: options.Slice = None,
    overlap: options.Overlap = 0.2,
    slice_only: options.SliceOnly = False,
    partial: options.Partial = False,
    averaged: options.Averaged = None,
    form: sources.Format = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw ground truth and detections side by side.

    Writes one PNG per image with a panel for each detector, named by image id, or with --images by file name. A star
    and a wider outline mark detections that another detector misses. With --only-different names begin with the rank.
    The default folder is detections/ in the first run.
    """
    from afictl.visualization import side_by_side_figures

    if only_different and len(weights) < 2:
        raise UserError("--only-different compares detectors: give --weights twice or more")
    views = options.parse_slice(context, tile_size, overlap, slice_only)
    source = sources.load_source(context, data, split, images, weights[0])
    folder = sources.figure_folder(output, weights, "detections")
    limit = sources.default_limit(source, limit)
    detectors = sources.load_detectors(weights, source, threshold, partial, averaged, views)
    pictures = sources.select_pictures(source, None if only_different else limit)
    if only_different:
        pictures = _rank(detectors, pictures, threshold, limit)
    figures = side_by_side_figures(detectors, pictures, threshold)
    sources.write_with_progress(figures, folder, "detections", form, "Detections", len(pictures))


def _rank(detectors: NamedDetectors, pictures: list[Picture], threshold: float, limit: int | None) -> list[Picture]:
    """Return the pictures with the largest disagreement, and print it.

    Raises:
        UserError: the detectors agree on all pictures.
    """
    from rich.console import Console

    from afictl.progress import show_progress
    from afictl.visualization import rank_pictures

    with show_progress(Console(soft_wrap=True), "images") as progress:
        ranked = rank_pictures(detectors, pictures, threshold, limit, progress)
    if not ranked:
        raise UserError(f"the detectors agree on all {len(pictures)} images at --threshold {threshold}")
    for picture in ranked:
        typer.echo(picture.title)
    return ranked


@app.command("features")
def visualize_features(
    context: typer.Context,
    guide: _Guide,
    interpolators: _Interpolators = None,
    weights: _InterpolatorWeights = None,
    levels: _Levels = None,
    averaged: options.Averaged = None,
    data: sources.Data = None,
    split: sources.Split = "val",
    images: sources.Images = None,
    limit: sources.Limit = None,
    form: sources.Format = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw enlarged features of a guide and their target.

    As in stage 1 of pretrain, the guide's features of the half-size image are enlarged and compared with its features
    of the image, level by level. Panels show principal components, errors, and the mean L1 and cosine. The default
    folder is features/ in the run of the guide.
    """
    from afictl.visualization import feature_figures, named_interpolators
    from afictl.weights import load_detector

    source = sources.load_source(context, data, split, images, guide)
    folder = sources.figure_folder(output, [guide], "features")
    loaded = load_detector(guide, averaged=averaged)
    if loaded.report.notes:
        typer.echo(f"{guide}: {loaded.report}")
    detector = loaded.detector.to(sources.first_device())
    kinds = interpolators or ([] if weights else ["nearest", "bilinear", "bicubic"])
    named = named_interpolators(detector, kinds, weights or [])
    pictures = sources.select_pictures(source, sources.default_limit(source, limit))
    selection = [] if levels is None else [level.strip() for level in levels.split(",")]
    figures = feature_figures(detector, named, pictures, selection)
    sources.write_with_progress(figures, folder, "features", form, "Enlarged features", len(pictures))


@app.command("gradcam")
def visualize_gradcam(
    context: typer.Context,
    weights: sources.Weights,
    data: sources.Data = None,
    split: sources.Split = "val",
    images: sources.Images = None,
    limit: sources.Limit = None,
    threshold: sources.Threshold = 0.5,
    partial: options.Partial = False,
    averaged: options.Averaged = None,
    form: sources.Format = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw Grad-CAM of several detectors for the same detection.

    The detection is that of the first detector with the highest score, or else the largest object of the ground truth.
    Its pyramid level and the colour scale are the same for all detectors. The default folder is gradcam/ in the first
    run.
    """
    from afictl.visualization import gradcam_figures

    source = sources.load_source(context, data, split, images, weights[0])
    folder = sources.figure_folder(output, weights, "gradcam")
    detectors = sources.load_detectors(weights, source, threshold, partial, averaged)
    pictures = sources.select_pictures(source, sources.default_limit(source, limit))
    figures = gradcam_figures(detectors, pictures, threshold)
    num_figures = sources.write_with_progress(figures, folder, "gradcam", form, "Grad-CAM", len(pictures))
    if not num_figures:
        raise UserError(f"{len(pictures)} images have no object and no detection with a score of {threshold}")
    if num_figures < len(pictures):
        skipped = len(pictures) - num_figures
        typer.echo(f"skipped {skipped} images without a detection; lower --threshold, now {threshold}, to draw them")


@app.command("training")
def visualize_training(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    form: Annotated[str, typer.Option("--format", help="png, svg or html.")] = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Plot losses, learning rate and accuracy of runs over their steps.

    Writes training.png, .svg or .html; the default folder is training/ in the first run.
    """
    from afictl.visualization import plot_training, run_names
    from afictl.visualization.figure_files import remove_earlier_files, write_figures
    from afictl.visualization.training_curves import training_panels

    if form not in ("png", "svg", "html"):
        raise UserError(f"--format {form}: write png, svg or html")
    folder = sources.figure_folder(output, runs, "training")
    named = dict(zip(run_names(runs), map(folder_of, runs), strict=True))
    path = folder / f"training.{form}"
    if form == "html":
        write_figures([training_panels(named)], folder, "training", form=form)
    else:
        plot_training(named, path)
        remove_earlier_files(folder, "training", [path])
    typer.echo(f"{len(named)} run{'' if len(named) == 1 else 's'}: {path}")
