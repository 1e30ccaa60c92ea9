"""``afictl pseudo-label``: what a trained detector is sure of on unlabelled images, to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import output_file
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.evaluation.pseudo_labels import PseudoLabelReport
    from afictl.weights import LoadedDetector

_FEW = 5


def pseudo_label(
    weights: Annotated[
        Path, typer.Option("--weights", help="The teacher: run folder or checkpoint, also detectron2's or AFI-GAN's.")
    ],
    images: Annotated[
        Path, typer.Option("--images", help="Folder of unlabelled images; those in its subfolders count too.")
    ],
    output: Annotated[
        Path, typer.Option("--output", callback=output_file, help="COCO JSON to write; its examples are FILE.png.")
    ],
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", min=0.0, max=1.0, callback=options.finite, help="Score from which a detection is kept."
        ),
    ] = 0.7,
    class_threshold: Annotated[
        list[str] | None,
        typer.Option("--class-threshold", metavar="NAME=VALUE", help="The same for one class. Repeatable."),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option("--exclude", help="Data set in COCO layout whose images are left out; default: that of the run."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first images.")] = None,
    tta: options.Tta = False,
    tta_sizes: options.TtaSizes = None,
    no_tta_flip: options.NoTtaFlip = False,
    partial: options.Partial = False,
    precision: options.Precision = "32-true",
    debug: options.Debug = False,
) -> None:
    """Write a teacher's confident detections on unlabelled images as a COCO annotation file.

    'afictl finetune --pseudo FILE' trains on it. Every annotation keeps its score; images that cannot be read are
    skipped, named and counted. Images that the labelled data set lists in train, val or test are recognised by their
    bytes and left out: the first have better labels, and nothing could be measured on the others any more.
    """
    from rich.console import Console

    from afictl.data.folders import require_data_folder
    from afictl.data.unlabeled import image_files
    from afictl.distributed import Runtime
    from afictl.evaluation.pseudo_labels import class_thresholds, write_pseudo_labels
    from afictl.progress import show_progress
    from afictl.training import HardwareSettings, launch
    from afictl.weights import load_detector

    if output.suffix != ".json":
        raise UserError(f"--output {output}: name a file that ends in .json")
    own = _class_thresholds(class_threshold or [])
    augmentation = options.parse_tta(tta, tta_sizes, no_tta_flip)
    if exclude:
        require_data_folder(exclude)
    files = image_files(images)
    loaded = load_detector(weights, partial=partial)
    typer.echo(f"{weights}: {loaded.report}")
    thresholds = class_thresholds(loaded.classes, threshold, own)
    lowest = loaded.preset.detector.score_threshold
    if min(thresholds) < lowest:
        typer.echo(f"{weights}: has no detections below {lowest}, its detector.score_threshold")
    files = _unlabelled(files, images, exclude or _recorded(weights))[:limit]
    fabric = launch(HardwareSettings(devices="1", precision=precision))
    fabric.to_device(loaded.detector)
    console = Console(soft_wrap=True)
    info = {"weights": str(weights.resolve()), "threshold": threshold, "class_thresholds": own}
    with show_progress(console, "images") as progress:
        report = write_pseudo_labels(
            loaded,
            files,
            images,
            output,
            thresholds,
            Runtime.of_fabric(fabric, loaded.preset.loader.workers),
            info=info,
            tta=augmentation,
            progress=progress,
        )
    _print(report)
    _draw(report, loaded, output.with_suffix(".png"))
    typer.echo(f"pseudo labels: {output}")
    typer.echo(f"examples: {output.with_suffix('.png')}")


def _class_thresholds(texts: list[str]) -> dict[str, float]:
    own: dict[str, float] = {}
    for name, score in map(_class_threshold, texts):
        if name in own:
            raise UserError(f"--class-threshold {name}={score:g}: '{name}' has {own[name]:g} already; give it once")
        own[name] = score
    return own


def _class_threshold(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        score = float(value)
    except ValueError:
        score = -1.0
    if not (name and 0 <= score <= 1):
        raise UserError(f"--class-threshold {text}: write NAME=VALUE with a score of 0 to 1, e.g. person=0.8")
    return name, score


def _unlabelled(files: list[Path], folder: Path, labelled: Path | None) -> list[Path]:
    """Those of ``files`` that are not in the labelled data set, where that is known."""
    from afictl.data.unlabeled import without_labelled

    if labelled is None:
        typer.echo("which images are labelled already is not known; --exclude DIR leaves them out")
        return files
    rest = without_labelled(files, labelled)
    if len(rest) < len(files):
        typer.echo(f"left out: {len(files) - len(rest)} images that {labelled} holds")
    if not rest:
        raise UserError(
            f"{folder}: each of its {len(files)} images is in {labelled} already: give other images,"
            " or train the teacher on a part of the set (afictl data subset)"
        )
    return rest


def _recorded(weights: Path) -> Path | None:
    """The data set of the teacher's run, if it is still there."""
    from afictl.cli.runs import data_of

    try:
        folder = data_of(weights)
    except UserError:
        return None
    return folder if folder.is_dir() else None


def _print(report: PseudoLabelReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table("class", *(Column(name, justify="right") for name in ("threshold", "seen", "kept", "images")))
    for count in report.classes.values():
        table.add_row(escape(count.name), f"{count.threshold:g}", *map(str, (count.seen, count.kept, count.images)))
    Console(soft_wrap=True).print(table)
    typer.echo(f"{report.kept} pseudo labels on {report.labelled} of {report.images} images")
    if report.unreadable:
        more = f"; and {len(report.unreadable) - _FEW} more, named in the file" if len(report.unreadable) > _FEW else ""
        typer.echo(f"skipped {len(report.unreadable)} images: {'; '.join(report.unreadable[:_FEW])}{more}", err=True)


def _draw(report: PseudoLabelReport, loaded: LoadedDetector, path: Path) -> None:
    """Write a sheet of the examples."""
    from afictl.data import read_image
    from afictl.files import atomic_write
    from afictl.visualization import contact_sheet
    from afictl.visualization.pictures import results_to_detection

    labels = {count.category_id: label for label, count in report.classes.items()}
    pictures = [
        (file.name, read_image(file), results_to_detection(records, labels)) for file, records in report.examples
    ]
    with atomic_write(path) as draft:
        contact_sheet(pictures, loaded.classes).save(draft, format="PNG")
