"""``afictl visualize``: pictures of what detectors do."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from afictl.cli import options
from afictl.cli import visualize_sources as sources
from afictl.cli.runs import folder_of
from afictl.errors import UserError


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


@app.command()
def detections(
    context: typer.Context,
    weights: sources.Weights,
    data: sources.Data = None,
    split: sources.Split = "val",
    images: sources.Images = None,
    limit: sources.Limit = None,
    threshold: sources.Threshold = 0.5,
    only_different: Annotated[
        bool,
        typer.Option("--only-different", help="Search all images and draw those where the weights differ most."),
    ] = False,
    partial: options.Partial = False,
    form: sources.Format = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw ground truth and detections side by side.

    One PNG an image, with a panel for each of the weights, named by image id, or with --images by file name. A star
    and a wider outline mark what one of the weights finds and another does not.
    With --only-different the names begin with the rank. The default folder is detections/ in the run of the first
    weights.
    """
    from rich.console import Console

    from afictl.progress import show_progress
    from afictl.training import HardwareSettings, launch
    from afictl.visualization import comparison_figures, load_contenders, most_different, run_names

    if only_different and len(weights) < 2:
        raise UserError("--only-different compares detectors: give --weights twice or more")
    source = sources.source_of(context, data, split, images, weights[0])
    folder = sources.output_of(output, weights[0], "detections")
    limit = sources.limit_of(source, limit)
    device = launch(HardwareSettings(devices="1")).device
    named = dict(zip(run_names(weights), weights, strict=True))
    contenders = load_contenders(named, source, device, sources.reader(threshold, partial))
    pictures = sources.pictures_of(source, None if only_different else limit)
    if only_different:
        searched = len(pictures)
        with show_progress(Console(soft_wrap=True), "searched") as progress:
            pictures = most_different(contenders, pictures, threshold, limit, progress)
        for picture in pictures:
            typer.echo(picture.title)
        if not pictures:
            raise UserError(f"no difference in {searched} images at --threshold {threshold}: nothing is drawn")
    figures = comparison_figures(contenders, pictures, threshold)
    sources.write(figures, folder, "detections", form, "Detections", len(pictures))


@app.command()
def features(
    context: typer.Context,
    guide: Annotated[Path, typer.Option("--guide", help="Detector whose features are enlarged: run or checkpoint.")],
    interpolators: Annotated[
        list[str] | None,
        typer.Option(
            "--interpolator",
            help="Kind, run of pretrain, or run or file with a learned interpolator in it. Repeatable; default:"
            " nearest, bilinear, bicubic.",
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", help="Run or checkpoint of a detector whose interpolator is taken. Repeatable."),
    ] = None,
    levels: Annotated[str | None, typer.Option("--levels", help="Pyramid levels, e.g. p2,p3; default: all.")] = None,
    data: sources.Data = None,
    split: sources.Split = "val",
    images: sources.Images = None,
    limit: sources.Limit = None,
    form: sources.Format = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw what interpolators make of the guide's coarse features, beside the goal.

    As in stage 1 of pretrain: the guide's feature of the half-size image is enlarged and compared with its feature of
    the image itself, level by level. Panels show principal components and errors, and the mean L1 and cosine.
    The default folder is features/ in the run of the guide.
    """
    from afictl.training import HardwareSettings, launch
    from afictl.visualization import feature_figures, named_interpolators
    from afictl.weights import load_detector

    source = sources.source_of(context, data, split, images, guide)
    folder = sources.output_of(output, guide, "features")
    detector = load_detector(guide).detector.to(launch(HardwareSettings(devices="1")).device)
    kinds = interpolators or ([] if weights else ["nearest", "bilinear", "bicubic"])
    named = named_interpolators(detector, kinds, weights or [])
    pictures = sources.pictures_of(source, sources.limit_of(source, limit))
    chosen = [] if levels is None else [level.strip() for level in levels.split(",")]
    figures = feature_figures(detector, named, pictures, chosen)
    sources.write(figures, folder, "features", form, "Enlarged features", len(pictures))


@app.command()
def gradcam(
    context: typer.Context,
    weights: sources.Weights,
    data: sources.Data = None,
    split: sources.Split = "val",
    images: sources.Images = None,
    limit: sources.Limit = None,
    threshold: sources.Threshold = 0.5,
    partial: options.Partial = False,
    form: sources.Format = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw where detectors look for the same detection.

    Grad-CAM of the best detection of the first weights (without one, of the largest object of the ground truth) at the
    pyramid level that it is found on, the same for all weights, on one colour scale.
    The default folder is gradcam/ in the run of the first weights.
    """
    from afictl.training import HardwareSettings, launch
    from afictl.visualization import gradcam_figures, load_contenders, run_names

    source = sources.source_of(context, data, split, images, weights[0])
    folder = sources.output_of(output, weights[0], "gradcam")
    device = launch(HardwareSettings(devices="1")).device
    named = dict(zip(run_names(weights), weights, strict=True))
    contenders = load_contenders(named, source, device, sources.reader(threshold, partial))
    pictures = sources.pictures_of(source, sources.limit_of(source, limit))
    figures = gradcam_figures(contenders, pictures, threshold)
    drawn = sources.write(figures, folder, "gradcam", form, "Grad-CAM", len(pictures))
    if not drawn:
        raise UserError(f"no detection from {threshold} on in {len(pictures)} images, and no object: nothing is drawn")
    if drawn < len(pictures):
        typer.echo(f"{len(pictures) - drawn} without a detection from {threshold} on: lower --threshold to see them")


@app.command()
def training(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    form: Annotated[str, typer.Option("--format", help="png, svg or html.")] = "png",
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Draw losses, learning rate and accuracy of one or more runs over their steps.

    Writes training.png, .svg or .html; the default folder is training/ in the first run.
    """
    from afictl.visualization import plot_training, run_names
    from afictl.visualization.curves import training_panels
    from afictl.visualization.output import replace_earlier, write_figures

    if form not in ("png", "svg", "html"):
        raise UserError(f"--format {form}: write png, svg or html")
    folder = sources.output_of(output, runs[0], "training")
    named = dict(zip(run_names(runs), map(folder_of, runs), strict=True))
    path = folder / f"training.{form}"
    if form == "html":
        write_figures([training_panels(named)], folder, "training", form=form)
    else:
        plot_training(named, path)
        replace_earlier(folder, "training", [path])
    typer.echo(f"{len(named)} run{'' if len(named) == 1 else 's'}: {path}")
