"""``afictl eval``: COCO metrics of trained detectors or of files of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.errors import UserError
from afictl.launchers import require_single_process
from afictl.run_folder import PREDICTIONS

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from afictl.cli.eval_sources import EvaluationSettings
    from afictl.data import Dataset
    from afictl.evaluation import Evaluation

_CONFUSION_SCORE = 0.3
_DETECTION_FLAGS = (
    "--tta",
    "--slice",
    "--batch-size",
    "--set",
    "--partial",
    "--ema",
    "--devices",
    "--nodes",
    "--precision",
    "--compile",
)

_Weights = Annotated[
    list[Path] | None,
    typer.Option(
        "--weights",
        help="Run folder or checkpoint of a detector, also of detectron2 or AFI-GAN. Repeat it to compare.",
    ),
]
_Predictions = Annotated[
    list[Path] | None,
    typer.Option("--predictions", help="COCO result JSON to score instead of --weights. Repeat it to compare."),
]
_Data = Annotated[
    Path | None,
    typer.Option("--data", help="Dataset. Default: that of the first run."),
]
_Split = Annotated[
    str, typer.Option("--split", help="train, val or test; for COCO's test images submission files are written.")
]
_Evaluator = Annotated[
    str, typer.Option("--evaluator", help="hotcoco or the slower pycocotools, for the same numbers.")
]
_Curves = Annotated[bool, typer.Option("--curves", help="Plot precision over recall.")]
_Confusion = Annotated[bool, typer.Option("--confusion", help="Plot the confusion matrix of the classes.")]
_ConfusionScore = Annotated[
    float | None,
    typer.Option(
        "--confusion-score",
        min=0.0,
        max=1.0,
        callback=options.require_finite,
        help=f"Minimum score of detections in --confusion. Default: {_CONFUSION_SCORE}.",
    ),
]
_Name = Annotated[
    str | None, typer.Option("--name", help="Algorithm name in submission files. Default: that of the run.")
]


def eval_command(
    context: typer.Context,
    weights: _Weights = None,
    predictions: _Predictions = None,
    data: _Data = None,
    split: _Split = "val",
    limit: options.Limit = None,
    evaluator: _Evaluator = "hotcoco",
    curves: _Curves = False,
    confusion: _Confusion = False,
    confusion_score: _ConfusionScore = None,
    name: _Name = None,
    batch_size: options.BatchSize = 1,
    tta: options.Tta = False,
    tta_sizes: options.TtaSizes = None,
    no_tta_flip: options.NoTtaFlip = False,
    tile_size: options.Slice = None,
    overlap: options.Overlap = 0.2,
    slice_only: options.SliceOnly = False,
    output: options.Output = None,
    overrides: options.Overrides = None,
    partial: options.Partial = False,
    averaged: options.Averaged = None,
    devices: options.Devices = "auto",
    nodes: options.Nodes = None,
    precision: options.Precision = "32-true",
    compile_parts: options.Compile = False,
    debug: options.Debug = False,
) -> None:
    """Compute box and mask AP, overall and by class, in points of 100.

    Writes metrics.json, per_class.csv and predictions.json (COCO results), by default to RUN/eval, with another split
    or a limit to RUN/eval-SPLIT-firstLIMIT; --tta appends -tta, and --slice appends -sliceSIZE. For several --weights
    or --predictions one table lists the differences to the first, also in comparison.json and comparison.csv. For
    images without annotations, as in image_info_test-dev2017.json, there are no metrics but zip files for COCO's
    server, in bbox/ and segm/.
    """
    from afictl.cli.eval_files import folder_suffix, result_folders
    from afictl.cli.eval_sources import EvaluationSettings, named_sources, require_sources
    from afictl.cli.runs import data_of, data_of_detector
    from afictl.data import load_dataset
    from afictl.data.layouts import describe_data
    from afictl.evaluation import EVALUATORS
    from afictl.training import HardwareSettings, launch

    _refuse_unused_flags(context, scores_files=bool(predictions), tta=tta, confusion=confusion)
    sources = named_sources(require_sources(weights, predictions))
    if evaluator not in EVALUATORS:
        raise UserError(f"--evaluator {evaluator}: choose {' or '.join(EVALUATORS)}")
    min_score = (_CONFUSION_SCORE if confusion_score is None else confusion_score) if confusion else None
    tiles = options.parse_slice(context, tile_size, overlap, slice_only, batch_size)
    views = options.parse_tta(tta, tta_sizes, no_tta_flip) or tiles
    folders = result_folders(sources, output, folder_suffix(split, limit, tta, tile_size))
    if not weights and not require_single_process():
        raise typer.Exit
    fabric = launch(HardwareSettings(devices, nodes, precision, compile_parts)) if weights else None
    if fabric:
        fabric.print_precision_note()
    recorded_data = data_of_detector if weights else data_of
    source = data or recorded_data(next(iter(sources.values())))
    dataset = load_dataset(source, split)
    _refuse_flags_for_data(context, dataset)
    request = EvaluationSettings(
        dataset=dataset,
        split=split,
        limit=limit,
        evaluator=evaluator,
        batch_size=batch_size,
        views=views,
        overrides=overrides or [],
        partial=partial,
        averaged=averaged,
        curves=curves,
        confusion_score=min_score,
        submission_name=name,
    )
    if fabric is None or fabric.is_global_zero:
        typer.echo(describe_data(source, {split: len(dataset)}))
    _evaluate_sources(sources, folders, request, fabric, output)


def _refuse_unused_flags(context: typer.Context, *, scores_files: bool, tta: bool, confusion: bool) -> None:
    """Refuse flags that have no effect in combination with others."""
    if scores_files:
        reason = "on --predictions FILE, which contains the detections; give --weights RUN to detect again"
        options.refuse_flags(context, reason, *_DETECTION_FLAGS)
    if tta:
        options.refuse_flags(context, "with --tta, which detects one image at a time", "--batch-size")
    if not confusion:
        options.refuse_flags(context, "without --confusion", "--confusion-score")


def _refuse_flags_for_data(context: typer.Context, dataset: Dataset) -> None:
    """Refuse flags that have no effect on a dataset with annotations, or on one without."""
    if dataset.has_ground_truth:
        reason = f"here: it is for submissions, and {dataset.annotation_file} has objects"
        options.refuse_flags(context, reason, "--name")
    else:
        reason = f"without objects: {dataset.annotation_file} lists only images"
        options.refuse_flags(context, reason, "--curves", "--confusion", "--evaluator")


def _evaluate_sources(
    sources: Mapping[str, Path],
    folders: Mapping[str, Path],
    settings: EvaluationSettings,
    fabric: Fabric | None,
    output: Path | None,
) -> None:
    """Evaluate each source, write its results to its folder and print the tables.

    Args:
        sources: detectors, or with ``fabric`` None files of predictions, by name.
        folders: result folders by the same names.
        settings: the same for every source.
        fabric: devices of the detectors; all its ranks must call this.
        output: folder for the comparison of several sources; None: that of the first source.
    """
    from rich.console import Console

    from afictl.cli.eval_files import remove_earlier, write_comparison, write_evaluation, write_submissions
    from afictl.cli.eval_sources import evaluate_source, require_classes
    from afictl.cli.runs import name_of
    from afictl.cli.tables import class_table, comparison_table, overall_table
    from afictl.data.image_listing import image_sizes_fingerprint, orientation_note
    from afictl.evaluation.detection_limit import COCO_LIMIT

    is_main_process = fabric is None or fabric.is_global_zero
    console = Console(soft_wrap=True, quiet=not is_main_process)
    if fabric and len(sources) > 1:
        require_classes(sources, settings.dataset)
    if fabric and (note := orientation_note(settings.dataset)):
        console.print(note, markup=False, highlight=False)
    positions = range(len(settings.dataset))[: settings.limit]
    images = image_sizes_fingerprint(settings.dataset, positions) if fabric and len(sources) > 1 else ""
    evaluations: dict[str, Evaluation] = {}
    for name, source in sources.items():
        file = folders[name] / PREDICTIONS if fabric else source
        evaluation = evaluate_source(source, file, settings, fabric, console)
        if not is_main_process:
            continue
        inputs = [*sources.values(), file]
        if evaluation is None:
            algorithm = settings.submission_name or name_of(source)
            write_submissions(file, folders[name], settings, algorithm, inputs, console)
        else:
            write_evaluation(evaluation, source, file, folders[name], settings, inputs)
            for note in evaluation.notes:
                console.print(f"note: {note}", markup=False, highlight=False)
            console.print(f"results: {folders[name]}", markup=False, highlight=False)
            evaluations[name] = evaluation
            if evaluation.cut_images:
                counted = f"{evaluation.cut_images} images have more than {COCO_LIMIT} detections of a class"
                console.print(f"note: {counted}, of which COCO's metrics count the best {COCO_LIMIT}", highlight=False)
    if len(evaluations) == 1:
        (evaluation,) = evaluations.values()
        console.print(overall_table(evaluation), class_table(evaluation))
    elif evaluations:
        if images and image_sizes_fingerprint(settings.dataset, positions) != images:
            folder = settings.dataset.image_dir
            raise UserError(f"{folder}: its images have changed meanwhile; the results are not comparable, start again")
        console.print(comparison_table(evaluations))
        if output:  # without it, the comparison is written to the new result folder of the first source
            remove_earlier(output, keep=sources.values())
        write_comparison(output or next(iter(folders.values())), evaluations)
