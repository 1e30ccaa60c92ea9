"""``afictl predict``: detections on images and videos that belong to no dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import parse_output_folder
from afictl.errors import UserError, did_you_mean, one_line

if TYPE_CHECKING:
    from afictl.cli.predict_run import PredictionReport

_Weights = Annotated[
    Path, typer.Option("--weights", help="Run folder or checkpoint of a detector, also of detectron2 or AFI-GAN.")
]
_Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES...",
        help="Image or video files, folders with their subfolders, patterns in quotes, or - for paths on standard"
        " input, one a line.",
    ),
]
_Folder = Annotated[
    Path, typer.Option("--output", callback=parse_output_folder, help="Folder to write to, absent or empty.")
]
_Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="coco, yolo, csv or jsonl. Repeatable. Default: coco."),
]
_Draw = Annotated[bool, typer.Option("--draw", help="Draw the detections: JPEG for images, MP4 for videos.")]
_Threshold = Annotated[
    float,
    typer.Option("--threshold", min=0.0, max=1.0, callback=options.require_finite, help="Minimum score."),
]


def predict_command(
    context: typer.Context,
    weights: _Weights,
    images: _Images,
    output: _Folder,
    form: _Formats = None,
    draw: _Draw = False,
    threshold: _Threshold = 0.5,
    batch_size: options.BatchSize = 1,
    tta: options.Tta = False,
    tta_sizes: options.TtaSizes = None,
    no_tta_flip: options.NoTtaFlip = False,
    tile_size: options.Slice = None,
    overlap: options.Overlap = 0.2,
    slice_only: options.SliceOnly = False,
    overrides: options.Overrides = None,
    partial: options.Partial = False,
    averaged: options.Averaged = None,
    devices: options.Devices = "auto",
    precision: options.Precision = "32-true",
    debug: options.Debug = False,
) -> None:
    """Detect on images and videos, without a dataset.

    Writes, by --format, predictions.json (COCO results) with image_info.json, labels/NAME.txt (YOLO), predictions.csv
    or predictions.jsonl; with --draw, pictures and videos in drawn/. Files that cannot be read are named and skipped;
    then the exit code is 1. The folder is complete or absent.
    """
    from afictl.cli.eval_sources import load_changed
    from afictl.cli.predict_run import predict_files, read_media
    from afictl.data.folders import require_unused_folder
    from afictl.distributed import Runtime
    from afictl.evaluation.media_detection import MediaDetector
    from afictl.training import HardwareSettings, launch

    formats = _parse_formats(form or ["coco"])
    if tta:
        options.refuse_flags(context, "with --tta, which detects one image at a time", "--batch-size")
    tiles = options.parse_slice(context, tile_size, overlap, slice_only, batch_size)
    views = options.parse_tta(tta, tta_sizes, no_tta_flip) or tiles
    require_unused_folder(output)
    fabric = launch(HardwareSettings(devices, precision=precision))
    fabric.print_precision_note()
    files = read_media(images, Runtime.of_fabric(fabric, workers=0))
    loaded = load_changed(weights, overrides or [], partial, averaged)
    if fabric.is_global_zero:
        typer.echo(f"{weights}: {loaded.report}")
        if threshold < (minimum := loaded.preset.detector.score_threshold):
            typer.echo(f"{weights}: has no detections below {minimum}, its detector.score_threshold")
    fabric.to_device(loaded.detector)
    runtime = Runtime.of_fabric(fabric, loaded.preset.loader.workers)
    detector = MediaDetector(loaded, runtime, threshold, batch_size, views)
    report = predict_files(detector, files, output, formats, draw=draw)
    if fabric.is_global_zero:
        _print_report(report, output)


def _parse_formats(names: list[str]) -> list[str]:
    from afictl.evaluation.prediction_formats import FORMATS

    for name in names:
        if name not in FORMATS:
            raise UserError(f"--format {name}: unknown format{did_you_mean(name, list(FORMATS))}")
        if names.count(name) > 1:
            raise UserError(f"--format {name}: is given twice")
    return names


def _print_report(report: PredictionReport, output: Path) -> None:
    """Print the counts, and the files that were skipped.

    Raises:
        typer.Exit: with code 1, files were skipped.
    """
    counts = {"images": report.images, "frames of videos": report.frames}
    inputs = " and ".join(f"{count} {name}" for name, count in counts.items() if count) or "0 images"
    typer.echo(f"detections: {report.detections}, on {inputs}")
    typer.echo(f"predictions: {output}")
    for fault in report.faults:
        typer.echo(f"skipped: {one_line(fault)}", err=True)
    if report.faults:
        raise typer.Exit(1)
