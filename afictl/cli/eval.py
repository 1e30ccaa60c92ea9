"""``afictl eval``: COCO metrics of trained detectors, or of files of predictions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afictl.cli import options
from afictl.cli.runs import data_of, folder_of, name_of, tidy
from afictl.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from rich.console import Console

    from afictl.data import CocoIndex
    from afictl.evaluation import Evaluation
    from afictl.evaluation.tta import TestTimeAugmentation
    from afictl.weights import LoadedDetector

PREDICTIONS = "predictions.json"


@dataclass(frozen=True)
class _Job:
    """What is asked of every source alike."""

    index: CocoIndex
    split: str
    limit: int | None
    evaluator: str
    batch_size: int
    tta: TestTimeAugmentation | None
    settings: list[str]
    partial: bool

    @property
    def is_submission(self) -> bool:
        """Whether the images have no objects, so that there is no metric."""
        return not self.index.has_ground_truth


def evaluate(
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
        typer.Option("--confusion-score", min=0.0, max=1.0, help="Score from which --confusion counts; default 0.3."),
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

    from afictl.cli.eval_files import write_comparison
    from afictl.cli.tables import class_table, comparison_table, overall_table
    from afictl.data import load_coco
    from afictl.evaluation import EVALUATORS
    from afictl.training import Hardware, launch

    if bool(weights) == bool(predictions):
        raise UserError("pass either --weights RUN or --predictions FILE")
    if evaluator not in EVALUATORS:
        raise UserError(f"--evaluator {evaluator}: choose {' or '.join(EVALUATORS)}")
    if predictions:
        idle = {"--tta": tta, "--set": bool(settings), "--partial": partial}
        _refuse(idle, "has no effect on --predictions FILE: it says how to detect; pass --weights RUN")
    if confusion:
        confusion_score = 0.3 if confusion_score is None else confusion_score
    elif confusion_score is not None:
        raise UserError("--confusion-score says how: add --confusion")
    augmentation = options.multi_scale(tta, tta_sizes, no_tta_flip)
    sources = weights or predictions or []
    for source in sources:
        folder_of(source)  # a misspelt second one is told before hours go into the first
    fabric = launch(Hardware(devices, nodes, precision)) if weights else None
    writes = fabric is None or fabric.is_global_zero
    console = Console(soft_wrap=True, quiet=not writes)
    index = load_coco(data or data_of(sources[0]), split)
    job = _Job(index, split, limit, evaluator, batch_size, augmentation, settings or [], partial)
    if job.is_submission:
        _refuse({"--curves": curves, "--confusion": confusion}, f"needs objects: {index.annotation_file} lists images")
    else:
        _refuse({"--name": name is not None}, f"is for a submission: {index.annotation_file} is scored here")
    results: dict[str, Evaluation] = {}
    named = _named(sources)
    folders = _folders(named, output, job)
    for called, source in named.items():
        folder = folders[called]
        result = _one(job, source, folder, fabric, console)
        if not writes:
            continue
        file = folder / PREDICTIONS if fabric else source
        if result is None:
            _submit(job, file, folder, name or name_of(source), console)
            continue
        _keep(job, result, source, folder, console)
        _draw(job, result, file, folder, curves, confusion_score)
        results[called] = result
    if len(results) == 1:
        (result,) = results.values()
        console.print(overall_table(result), class_table(result))
    elif results:
        console.print(comparison_table(results))
        write_comparison(output or next(iter(folders.values())), results)


def _refuse(idle: dict[str, bool], reason: str) -> None:
    """Raise at an option that was given and would do nothing."""
    for option, given in idle.items():
        if given:
            raise UserError(f"{option} {reason}")


def _named(sources: list[Path]) -> dict[str, Path]:
    """The sources by their names; where two have the same name, by the ends of their paths, which tell them apart."""
    names = [name_of(source) for source in sources]
    paths = [source.absolute() for source in sources]
    alike = [path for name, path in zip(names, paths, strict=True) if names.count(name) > 1]
    shared = commonpath(alike) if alike else ""
    above = Path(shared).parent if Path(shared) in alike else Path(shared)
    named = {
        str(path.relative_to(above)) if path in alike else name: source
        for name, path, source in zip(names, paths, sources, strict=True)
    }
    if len(named) < len(sources):
        raise UserError("the same source is given twice")
    return named


def _folders(named: dict[str, Path], output: Path | None, job: _Job) -> dict[str, Path]:
    """Where the results of each go; with ``output`` and several, into folders of their names inside it."""
    if output is None:
        folders, advice = {called: _folder(source, job) for called, source in named.items()}, "give --output DIR"
    elif len(named) == 1:
        return dict.fromkeys(named, output)
    else:  # ../run and run are of one name
        folders, advice = {called: output / tidy(called) for called in named}, "rename one, or give whole paths"
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise UserError(f"several of the sources would write to the same folder: {advice}")
    return folders


def _folder(source: Path, job: _Job) -> Path:
    """``eval`` in the run, or beside it for a part of the images; scored predictions stay where they are."""
    run = folder_of(source)
    part = (f"-{job.split}" if job.split != "val" or job.limit else "") + (f"-first{job.limit}" if job.limit else "")
    part += "-tta" if job.tta else ""
    if source.suffix == ".json" and (not part or run.name == f"eval{part}"):
        return run
    return run / f"eval{part}"


def _one(job: _Job, source: Path, folder: Path, fabric: Fabric | None, console: Console) -> Evaluation | None:
    """The metrics of one source, None where there are none; the results of a detector are then in ``folder``."""
    from afictl.evaluation import score_predictions

    if fabric is not None:
        return _detect(job, source, folder / PREDICTIONS, fabric, console)
    if job.is_submission:
        return None
    ids = job.index.image_ids[: job.limit] if job.limit else None
    return score_predictions(source, job.index.annotation_file, image_ids=ids, evaluator=job.evaluator)


def _detect(job: _Job, source: Path, file: Path, fabric: Fabric, console: Console) -> Evaluation | None:
    """Detect on the images, on every rank with its share, and score what was found."""
    from afictl.cli.progress import show_progress
    from afictl.evaluation import detect, evaluate

    loaded = _load(source, job.settings, job.partial)
    console.print(f"{source}: {loaded.report}", markup=False, highlight=False)
    with show_progress(console, "images") as progress:
        how: dict[str, Any] = {
            "limit": job.limit,
            "batch_size": job.batch_size,
            "workers": loaded.preset.loader.workers,
            "device": fabric.device,
            "classes": loaded.classes,
            "autocast": fabric.autocast,
            "tta": job.tta,
            "progress": progress,
            "rank": fabric.global_rank,
            "world_size": fabric.world_size,
        }
        detector = fabric.to_device(loaded.detector)
        if job.is_submission:
            detect(detector, job.index, file, **how)
            return None
        return evaluate(detector, job.index, predictions=file, evaluator=job.evaluator, **how)


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


def _submit(job: _Job, file: Path, folder: Path, name: str, console: Console) -> None:
    from afictl.evaluation.submission import write_submission

    if job.limit:
        console.print(f"note: only the first {job.limit} images; the server scores all of them")
    for path in write_submission(file, job.index.annotation_file, folder, tidy(name)):
        console.print(f"to upload: {path}", markup=False, highlight=False)


def _keep(job: _Job, result: Evaluation, source: Path, folder: Path, console: Console) -> None:
    from afictl.cli.eval_files import write_metrics

    details = {
        "source": str(source),
        "data": str(job.index.annotation_file),
        "split": job.split,
        "limit": job.limit,
        "images": min(len(job.index), job.limit or len(job.index)),
        "settings": job.settings,
        "evaluator": job.evaluator,
        "tta": asdict(job.tta) if job.tta else None,
    }
    write_metrics(folder, result, details)
    console.print(f"results: {folder}", markup=False, highlight=False)


def _draw(job: _Job, result: Evaluation, file: Path, folder: Path, curves: bool, score: float | None) -> None:
    """The pictures that were asked for, with their numbers; ``score`` is that of the confusion."""
    from afictl.cli.eval_files import write_confusion, write_curves
    from afictl.evaluation.confusion import confusion_of

    if curves:
        write_curves(folder, result)
    if score is not None:
        ids = job.index.image_ids[: job.limit] if job.limit else None
        write_confusion(folder, confusion_of(file, job.index.annotation_file, image_ids=ids, score=score))
