"""``afictl eval``: COCO metrics of trained detectors, or of files of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.errors import UserError

_CONFUSION_SCORE = 0.3
_OF_DETECTION = ("--tta", "--batch-size", "--set", "--partial", "--devices", "--nodes", "--precision")


def evaluate(
    context: typer.Context,
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "--weights",
            help="Run folder or checkpoint of a detector, also detectron2's or AFI-GAN's. Repeatable: compares them.",
        ),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option("--predictions", help="Score this COCO result JSON instead of --weights. Repeatable."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data set in COCO layout. Default: the one the first run was trained on."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="train, val or test; of COCO's test images a submission is written.")
    ] = "val",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first images.")] = None,
    evaluator: Annotated[
        str, typer.Option("--evaluator", help="hotcoco or pycocotools; the numbers are the same.")
    ] = "hotcoco",
    curves: Annotated[bool, typer.Option("--curves", help="Also draw precision over recall.")] = False,
    confusion: Annotated[bool, typer.Option("--confusion", help="Also draw which class is taken for which.")] = False,
    confusion_score: Annotated[
        float | None,
        typer.Option(
            "--confusion-score",
            min=0.0,
            max=1.0,
            callback=options.finite,
            help=f"Score from which --confusion counts; default {_CONFUSION_SCORE}.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Algorithm name in a submission's files. Default: the run's.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images detected at once.")] = 1,
    tta: options.Tta = False,
    tta_sizes: options.TtaSizes = None,
    no_tta_flip: options.NoTtaFlip = False,
    output: options.Output = None,
    settings: options.Settings = None,
    partial: options.Partial = False,
    devices: options.Devices = "auto",
    nodes: options.Nodes = 1,
    precision: options.Precision = "32-true",
    debug: options.Debug = False,
) -> None:
    """Print box and mask AP, overall and by class, in points of 100.

    Writes metrics.json, per_class.csv and predictions.json (COCO results), by default to RUN/eval, or with
    another split or a limit to RUN/eval-SPLIT-firstLIMIT, with --tta to such a folder ending in -tta.
    Several --weights or --predictions end in one table with the differences to the first, which is also in
    comparison.json and comparison.csv. Of images without objects, as in image_info_test-dev2017.json, no metric is
    printed: bbox/ and segm/ then hold zip files for COCO's server.
    """
    from rich.console import Console

    from afictl.cli.eval_files import remove_earlier, require_no_grid, write_comparison
    from afictl.cli.eval_job import PREDICTIONS, Job, find, keep, submit
    from afictl.cli.eval_sources import (
        named_sources,
        part_of_data,
        require_classes,
        require_sources,
        result_folders,
    )
    from afictl.cli.outputs import require_writable
    from afictl.cli.runs import data_of, name_of
    from afictl.cli.tables import class_table, comparison_table, overall_table
    from afictl.data import load_coco
    from afictl.evaluation import EVALUATORS
    from afictl.training import HardwareSettings, launch

    _refuse_idle(context, scores_files=bool(predictions), tta=tta, confusion=confusion)
    sources = require_sources(weights, predictions)
    if evaluator not in EVALUATORS:
        raise UserError(f"--evaluator {evaluator}: choose {' or '.join(EVALUATORS)}")
    score = (_CONFUSION_SCORE if confusion_score is None else confusion_score) if confusion else None
    views = options.parse_tta(tta, tta_sizes, no_tta_flip)
    named = named_sources(sources)
    folders = result_folders(named, output, part_of_data(split, limit, tta))
    for folder in [*folders.values(), *([output] if output else [])]:
        require_no_grid(folder)
        require_writable(folder, "--output")
    fabric = launch(HardwareSettings(devices, nodes, precision)) if weights else None
    writes = fabric is None or fabric.is_global_zero
    console = Console(soft_wrap=True, quiet=not writes)
    index = load_coco(data or data_of(sources[0]), split)
    job = Job(sources, index, split, limit, evaluator, batch_size, views, settings or [], partial, curves, score)
    if job.is_submission:
        without = f"without objects: {index.annotation_file} lists images alone"
        options.refuse_flags(context, without, "--curves", "--confusion", "--evaluator")
    else:
        options.refuse_flags(
            context, f"here: it is for a submission, and {index.annotation_file} has objects", "--name"
        )
    if fabric and len(sources) > 1:
        require_classes(sources, index)
    results = {}
    for called, source in named.items():
        folder = folders[called]
        result = find(job, source, folder, fabric, console)
        file = folder / PREDICTIONS if fabric else source
        if writes and result is None:
            submit(job, file, folder, name or name_of(source), console)
        elif writes and result is not None:
            keep(job, result, source, file, folder, console)
            results[called] = result
    if len(results) == 1:
        (result,) = results.values()
        console.print(overall_table(result), class_table(result))
    elif results:
        console.print(comparison_table(results))
        if output:  # else it is beside the results of the first, which are new
            remove_earlier(output, keep=sources)
        write_comparison(output or next(iter(folders.values())), results)


def _refuse_idle(context: typer.Context, *, scores_files: bool, tta: bool, confusion: bool) -> None:
    """Refuse flags that the other flags leave without effect."""
    if scores_files:
        reason = "on --predictions FILE: the results are there, so give --weights RUN to detect anew"
        options.refuse_flags(context, reason, *_OF_DETECTION)
    if tta:
        options.refuse_flags(context, "with --tta, which looks at one image at a time", "--batch-size")
    if not confusion:
        options.refuse_flags(context, "without --confusion", "--confusion-score")
