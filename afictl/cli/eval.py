"""``afictl eval``: COCO metrics of a trained detector, or of a file of predictions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afictl.cli import options
from afictl.cli.runs import data_of, folder_of
from afictl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from afictl.data import CocoIndex
    from afictl.evaluation import Evaluation
    from afictl.evaluation.tta import TestTimeAugmentation
    from afictl.weights import LoadedDetector

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate(
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Run folder or checkpoint of a detector, also detectron2's or AFI-GAN's."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Score this COCO result JSON instead of --weights.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data set in COCO layout. Default: the one the run was trained on."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first images.")] = None,
    evaluator: Annotated[
        str, typer.Option("--evaluator", help="hotcoco or pycocotools; the numbers are the same.")
    ] = "hotcoco",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images detected at once.")] = 1,
    tta: options.Tta = False,
    tta_sizes: options.TtaSizes = None,
    no_tta_flip: options.NoTtaFlip = False,
    output: options.Output = None,
    settings: options.Settings = None,
    partial: options.Partial = False,
    precision: options.Precision = "32-true",
    debug: options.Debug = False,
) -> None:
    """Print box and mask AP, overall and by class, in points of 100.

    Writes metrics.json, per_class.csv and predictions.json (COCO results), by default to RUN/eval, or with
    another split or a limit to RUN/eval-SPLIT-firstLIMIT, with --tta to such a folder ending in -tta.
    Runs on one device.
    """
    from rich.console import Console

    from afictl.data import load_coco
    from afictl.evaluation import EVALUATORS, score_predictions

    if (weights is None) == (predictions is None):
        raise UserError("pass either --weights RUN or --predictions FILE")
    if evaluator not in EVALUATORS:
        raise UserError(f"--evaluator {evaluator}: choose {' or '.join(EVALUATORS)}")
    if tta and predictions:
        raise UserError("--tta detects anew: pass --weights RUN, not --predictions FILE")
    augmentation = options.multi_scale(tta, tta_sizes, no_tta_flip)
    source = weights or predictions or Path()
    loaded = _load(weights, settings or [], partial) if weights else None
    index = load_coco(data or data_of(source), split)
    console = Console(soft_wrap=True)
    folder = output or _folder(source, split, limit, tta)
    if loaded is not None:
        typer.echo(f"{weights}: {loaded.report}")
    if loaded is None:
        result = score_predictions(
            source,
            index.annotation_file,
            image_ids=index.image_ids[:limit] if limit else None,
            evaluator=evaluator,
        )
    else:
        result = _detect(console, loaded, index, folder, limit, batch_size, evaluator, precision, augmentation)
    details = {
        "source": str(source),
        "data": str(index.annotation_file),
        "split": split,
        "limit": limit,
        "images": min(len(index), limit or len(index)),
        "settings": settings or [],
        "evaluator": evaluator,
        "tta": asdict(augmentation) if augmentation else None,
    }
    _write(folder, result, details)
    console.print(_overall_table(result), _class_table(result))
    typer.echo(f"results: {folder}")


def _folder(source: Path, split: str, limit: int | None, tta: bool) -> Path:
    """``eval`` in the run, or beside it for a part of the images; scored predictions stay where they are."""
    run = folder_of(source)
    part = (f"-{split}" if split != "val" or limit else "") + (f"-first{limit}" if limit else "")
    part += "-tta" if tta else ""
    if source.suffix == ".json" and (not part or run.name == f"eval{part}"):
        return run
    return run / f"eval{part}"


def _load(weights: Path, settings: list[str], partial: bool) -> LoadedDetector:
    """The detector, rebuilt with changed preset keys where ``--set`` asks for some."""
    from afictl.detectors import build_detector
    from afictl.presets import parse_preset
    from afictl.weights import LoadedDetector, load_detector
    from afictl.weights.loading import load_tensors

    loaded = load_detector(weights, partial=partial)
    if not settings:
        return loaded
    preset = parse_preset(loaded.preset.model_dump(mode="json"), settings, source=str(weights))
    detector = build_detector(preset, num_classes=len(loaded.classes))
    report = load_tensors(detector, loaded.detector.state_dict())
    if not report.complete:
        raise UserError(
            f"--set {' '.join(settings)}: the weights of {weights} do not fit any more ({report}); "
            "change only keys that leave the layers as they are, such as input.test_size"
        )
    return LoadedDetector(detector, preset, loaded.classes, loaded.metadata, loaded.report)


def _detect(
    console: Console,
    loaded: LoadedDetector,
    index: CocoIndex,
    folder: Path,
    limit: int | None,
    batch_size: int,
    evaluator: str,
    precision: str,
    tta: TestTimeAugmentation | None,
) -> Evaluation:
    from afictl.cli.progress import show_progress
    from afictl.evaluation import evaluate
    from afictl.training import Hardware, launch

    fabric = launch(Hardware(devices="1", precision=precision))
    with show_progress(console, "images") as progress:
        return evaluate(
            fabric.to_device(loaded.detector),
            index,
            predictions=folder / "predictions.json",
            limit=limit,
            batch_size=batch_size,
            workers=loaded.preset.loader.workers,
            evaluator=evaluator,
            device=fabric.device,
            classes=loaded.classes,
            autocast=fabric.autocast,
            tta=tta,
            progress=progress,
        )


def _write(folder: Path, result: Evaluation, details: dict[str, Any]) -> None:
    import csv
    import io
    import json

    from afictl.training.run import write_text

    folder.mkdir(parents=True, exist_ok=True)
    content = {**details, "metrics": result.metrics, "per_class": result.per_class}
    write_text(folder / "metrics.json", json.dumps(content, indent=2) + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, list(result.per_class[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.per_class)
    write_text(folder / "per_class.csv", table.getvalue())


def _overall_table(result: Evaluation) -> Table:
    from rich.table import Table

    table = Table(title="Average precision, points of 100")
    for heading in ("", *_METRICS):
        table.add_column(heading, justify="right" if heading else "left")
    for kind in _kinds(result):
        table.add_row(kind, *(_points(result.metrics[f"{kind}/{name}"]) for name in _METRICS))
    return table


def _class_table(result: Evaluation) -> Table:
    from rich.table import Table

    columns = [f"{kind}/{name}" for kind in _kinds(result) for name in ("AP", "AP50")]
    rows = [row for row in result.per_class if row["objects"]]
    absent = len(result.per_class) - len(rows)
    table = Table(title=f"By class; {absent} without objects left out" if absent else "By class")
    for heading in ("class", "objects", *(column.replace("/", " ") for column in columns)):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for row in rows:
        table.add_row(row["name"], str(row["objects"]), *(_points(row[column]) for column in columns))
    return table


def _kinds(result: Evaluation) -> list[str]:
    return [kind for kind in ("box", "mask") if f"{kind}/AP" in result.metrics]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
