"""``afictl pseudo-label``: annotations of unlabelled images from the detections of a trained detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_file
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.evaluation.pseudo_labels import PseudoLabelReport
    from afictl.weights import LoadedDetector

_MAX_UNREADABLE = 5
"""Number of unreadable files that are printed."""

_Teacher = Annotated[
    Path, typer.Option("--weights", help="Teacher: run folder or checkpoint, also of detectron2 or AFI-GAN.")
]
_Images = Annotated[Path, typer.Option("--images", help="Folder of unlabelled images, with its subfolders.")]
_File = Annotated[
    Path,
    typer.Option(
        "--output",
        callback=parse_output_file,
        help="COCO JSON to write; examples are drawn in FILE.png.",
    ),
]
_Threshold = Annotated[
    float,
    typer.Option("--threshold", min=0.0, max=1.0, callback=options.require_finite, help="Minimum score."),
]
_ClassThresholds = Annotated[
    list[str] | None,
    typer.Option("--class-threshold", metavar="NAME=VALUE", help="Minimum score for one class. Repeatable."),
]
_Exclude = Annotated[
    Path | None,
    typer.Option("--exclude", help="Dataset whose images are excluded. Default: that of the run."),
]


def pseudo_label_command(
    context: typer.Context,
    weights: _Teacher,
    images: _Images,
    output: _File,
    threshold: _Threshold = 0.7,
    class_threshold: _ClassThresholds = None,
    exclude: _Exclude = None,
    limit: options.Limit = None,
    tta: options.Tta = False,
    tta_sizes: options.TtaSizes = None,
    no_tta_flip: options.NoTtaFlip = False,
    tile_size: options.Slice = None,
    overlap: options.Overlap = 0.2,
    slice_only: options.SliceOnly = False,
    partial: options.Partial = False,
    averaged: options.Averaged = None,
    precision: options.Precision = "32-true",
    debug: options.Debug = False,
) -> None:
    """Write a detector's confident detections on unlabelled images as COCO annotations.

    'afictl finetune --pseudo FILE' trains on them. Every annotation has its score; unreadable images are skipped and
    listed. Images of the labelled dataset (train, val and test) are recognised by their content and excluded, as they
    have better labels or are needed for evaluation. The same command continues an interrupted one from FILE.partial.
    """
    from rich.console import Console

    from afictl import __version__
    from afictl.data.folders import IMAGE_SUFFIXES, image_files
    from afictl.data.hashing import file_digest
    from afictl.data.image_faults import HEIC_SUFFIXES
    from afictl.data.layouts import find_layout
    from afictl.distributed import Runtime
    from afictl.evaluation.pseudo_labels import write_pseudo_labels
    from afictl.evaluation.views import record_of
    from afictl.progress import show_progress
    from afictl.training import launch_single
    from afictl.training.hardware import hardware_record
    from afictl.weights import load_detector
    from afictl.weights.checkpoint import find_checkpoint

    if output.suffix != ".json":
        raise UserError(f"--output {output}: name a file that ends in .json")
    overrides = _parse_class_thresholds(class_threshold or [])
    tiles = options.parse_slice(context, tile_size, overlap, slice_only)
    views = options.parse_tta(tta, tta_sizes, no_tta_flip) or tiles
    if exclude:
        find_layout(exclude)
    files = image_files(images, (*IMAGE_SUFFIXES, *HEIC_SUFFIXES))
    loaded = load_detector(weights, partial=partial, averaged=averaged)
    typer.echo(f"{weights}: {loaded.report}")
    thresholds = _class_thresholds(loaded, weights, threshold, overrides)
    files = _unlabelled(files, images, exclude or _training_data(weights))[:limit]
    fabric = launch_single(precision)
    fabric.print_precision_note()
    fabric.to_device(loaded.detector)
    runtime = Runtime.of_fabric(fabric, loaded.preset.loader.workers)
    info = {"weights": weights.absolute().name, "threshold": threshold, "class_thresholds": overrides}
    settings = {
        **info,
        **record_of(views),
        "afictl": __version__,
        "checkpoint": file_digest(find_checkpoint(weights)),
        "averaged": averaged,
        "precision": str(hardware_record(fabric)["precision"]),
    }
    with show_progress(Console(soft_wrap=True), "images") as progress:
        report = write_pseudo_labels(
            loaded,
            files,
            images,
            output,
            thresholds,
            runtime,
            info=info,
            views=views,
            settings=settings,
            progress=progress,
        )
    _print_report(report, loaded.preset.detector.max_detections)
    _draw_examples(report, loaded, output.with_suffix(".png"))
    typer.echo(f"pseudo labels: {output}")
    typer.echo(f"examples: {output.with_suffix('.png')}")


def _parse_class_thresholds(texts: list[str]) -> dict[str, float]:
    """Parse ``NAME=VALUE``: minimum score by class name.

    Raises:
        UserError: another form, a value outside 0..1, or a repeated name.
    """
    thresholds: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            score = float(value)
        except ValueError:
            score = -1.0
        if not (name and 0 <= score <= 1):
            raise UserError(f"--class-threshold {text}: write NAME=VALUE with a score of 0 to 1, e.g. person=0.8")
        if name in thresholds:
            earlier = f"'{name}' has {thresholds[name]:g} already"
            raise UserError(f"--class-threshold {name}={score:g}: {earlier}; give it once")
        thresholds[name] = score
    return thresholds


def _class_thresholds(
    teacher: LoadedDetector, weights: Path, default: float, overrides: dict[str, float]
) -> list[float]:
    """Threshold of each class; prints a note if it is below the detector's score threshold."""
    from afictl.evaluation.pseudo_labels import class_thresholds

    thresholds = class_thresholds(teacher.classes, default, overrides)
    minimum = teacher.preset.detector.score_threshold
    if min(thresholds) < minimum:
        typer.echo(
            f"note: {weights} gives only detections with a score of at least {minimum:g}, its detector.score_threshold"
        )
    return thresholds


def _unlabelled(files: list[Path], folder: Path, labelled: Path | None) -> list[Path]:
    """The files that are not in the labelled dataset; all files if that is None."""
    from afictl.data.unlabeled import without_labelled

    if labelled is None:
        typer.echo("the labelled dataset is unknown; --exclude DIR excludes its images")
        return files
    remaining, unreadable = without_labelled(files, labelled)
    if unreadable:
        lost = f"{len(unreadable)} images of {labelled} cannot be read, such as {unreadable[0]}"
        typer.echo(f"warning: {lost}: copies of them are not recognised and may be labelled", err=True)
    if len(remaining) < len(files):
        typer.echo(f"excluded: {len(files) - len(remaining)} images of {labelled}")
    if not remaining:
        raise UserError(
            f"{folder}: all of its {len(files)} images are in {labelled}: give other images,"
            " or train the teacher on a part of the set (afictl data subset)"
        )
    return remaining


def _training_data(weights: Path) -> Path | None:
    """The dataset of the teacher's run, if it still exists."""
    from afictl.cli.runs import data_of

    try:
        folder = data_of(weights)
    except UserError:
        return None
    return folder if folder.is_dir() else None


def _print_report(report: PseudoLabelReport, max_detections: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    headings = ("threshold", "detections", "labels", "images")
    table = Table("class", *(Column(name, justify="right") for name in headings))
    for count in report.classes.values():
        numbers = (count.detections, count.labels, count.images)
        table.add_row(escape(count.name), f"{count.threshold:g}", *map(str, numbers))
    Console(soft_wrap=True).print(table)
    if report.continued:
        typer.echo(f"{report.continued} images were labelled by an interrupted command")
    typer.echo(f"{report.labels} pseudo labels on {report.labelled_images} of {report.images} images")
    if report.cut_images:
        cut = f"{report.cut_images} images have {max_detections} labels, the limit of the teacher"
        typer.echo(f"note: {cut} (its detector.max_detections), which may have cut more")
    if skipped := report.unreadable:
        more = f"; and {len(skipped) - _MAX_UNREADABLE} more, named in the file"
        more = more if len(skipped) > _MAX_UNREADABLE else ""
        typer.echo(f"skipped {len(skipped)} images: {'; '.join(skipped[:_MAX_UNREADABLE])}{more}", err=True)


def _draw_examples(report: PseudoLabelReport, teacher: LoadedDetector, path: Path) -> None:
    """Draw the examples with their labels on one sheet."""
    from afictl.data import read_image
    from afictl.files import atomic_write
    from afictl.visualization import contact_sheet
    from afictl.visualization.pictures import results_to_detection

    labels = {count.category_id: label for label, count in report.classes.items()}
    pictures = []
    for file, records in report.examples:
        image = read_image(file)
        size_hw = (image.shape[1], image.shape[2])
        pictures.append((file.name, image, results_to_detection(records, labels, size_hw, size_hw)))
    with atomic_write(path) as draft:
        contact_sheet(pictures, teacher.classes).save(draft, format="PNG")
