"""Folders and files of ``afictl eval``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from afictl.cli.outputs import require_writable, write_json
from afictl.cli.runs import folder_of, slugify
from afictl.cli.tables import difference
from afictl.errors import UserError
from afictl.files import remove_temporary_files, require_no_link, write_csv
from afictl.json_files import first_character
from afictl.run_folder import COMPARISON, COMPARISON_CSV, COMPARISON_SETTINGS, EVALUATION, PER_CLASS, PREDICTIONS

if TYPE_CHECKING:
    from rich.console import Console

    from afictl.cli.eval_sources import EvaluationSettings
    from afictl.evaluation import Evaluation
    from afictl.evaluation.confusion_matrix import ConfusionMatrix

_CURVES = ("pr_curves.png", "pr_curves.csv")
_CONFUSION = ("confusion.png", "confusion.csv")
_SUBMISSIONS = "detections_*_results.zip"


def folder_suffix(split: str, limit: int | None, tta: bool, tile_size: int | None = None) -> str:
    """Suffix of a result folder's name; empty for all val images, each detected in one view."""
    part = (f"-{split}" if split != "val" or limit else "") + (f"-first{limit}" if limit else "")
    return part + ("-tta" if tta else "") + (f"-slice{tile_size}" if tile_size else "")


def result_folders(sources: Mapping[str, Path], output: Path | None, suffix: str) -> dict[str, Path]:
    """Result folder of each source; with ``output`` and several sources, folders inside it.

    Raises:
        UserError: two sources have the same folder, or a folder is not writable or has results of ``afictl compare``.
    """
    if output is None:
        folders = {name: _default_folder(source, suffix) for name, source in sources.items()}
        hint = "give --output DIR"
    elif len(sources) == 1:
        folders, hint = dict.fromkeys(sources, output), ""
    else:  # ../run and run have one name
        folders, hint = {name: output / slugify(name) for name in sources}, "rename one, or give full paths"
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise UserError(f"several of the sources would write to the same folder: {hint}")
    for folder in [*folders.values(), *([output] if output else [])]:
        _require_no_comparison_run(folder)
        for kind in ("bbox", "segm"):
            require_no_link(folder / kind, folder)
        require_writable(folder, "--output")
    return folders


def _default_folder(source: Path, suffix: str) -> Path:
    """``eval`` and the suffix in the run; for predictions, their folder."""
    run = folder_of(source)
    if source.suffix == ".json" and (not suffix or run.name == f"eval{suffix}"):
        return run
    require_no_link(folder := run / f"eval{suffix}", run)
    return folder


def _require_no_comparison_run(folder: Path) -> None:
    """Refuse a folder of ``afictl compare``, which has files of the same names."""
    table = folder / COMPARISON
    if (folder / COMPARISON_SETTINGS).exists() or (table.is_file() and not _is_evaluation_table(table)):
        raise UserError(f"{folder}: has a comparison of 'afictl compare'; choose another --output")


def remove_earlier(folder: Path, keep: Iterable[Path] = ()) -> None:
    """Remove all files that an earlier evaluation wrote to ``folder``, except ``keep``; predictions only if it did."""
    remove_temporary_files(folder)
    earlier = [folder / name for name in (EVALUATION, PER_CLASS, *_CURVES, *_CONFUSION)]
    if _is_evaluation_table(folder / COMPARISON):
        earlier += [folder / COMPARISON, folder / COMPARISON_CSV]
    for kind in ("bbox", "segm"):
        remove_temporary_files(folder / kind)
        earlier += (folder / kind).glob(_SUBMISSIONS)
    if _has_detected(folder):
        earlier.append(folder / PREDICTIONS)
    retained = {path.resolve() for path in keep}
    for path in earlier:
        if path.resolve() not in retained:
            path.unlink(missing_ok=True)


def _is_evaluation_table(table: Path) -> bool:
    """Whether a ``comparison.json`` is a list of records, not the mapping that ``afictl compare`` writes."""
    return table.is_file() and first_character(table) == "["


def _has_detected(folder: Path) -> bool:
    """Whether the metrics in ``folder`` are those of a detector, not of a file of predictions."""
    from afictl.run_records import read_evaluation

    try:
        return not read_evaluation(folder / EVALUATION).source.endswith(".json")
    except UserError:  # absent, or not of an evaluation
        return False


def write_submissions(
    predictions: Path,
    folder: Path,
    settings: EvaluationSettings,
    algorithm: str,
    inputs: Iterable[Path],
    console: Console,
) -> None:
    """Write zip files for COCO's server from a file of predictions, and remove earlier results except ``inputs``."""
    from afictl.evaluation.submission import write_submission

    if settings.limit:
        console.print(f"note: only the first {settings.limit} images; the server scores all of them")
    paths = write_submission(predictions, settings.dataset, folder, slugify(algorithm))
    remove_earlier(folder, keep=[*inputs, *paths])
    for path in paths:
        console.print(f"to upload: {path}", markup=False, highlight=False)


def write_evaluation(
    evaluation: Evaluation,
    source: Path,
    predictions: Path,
    folder: Path,
    settings: EvaluationSettings,
    inputs: Iterable[Path],
) -> None:
    """Write ``metrics.json``, ``per_class.csv`` and, where ``settings`` request them, curves and confusion matrix.

    Args:
        evaluation: metrics of ``source``.
        source: detector or file of predictions.
        predictions: COCO results of ``source``.
        folder: folder to write to, from which earlier results are removed.
        settings: settings of the evaluation.
        inputs: files that are not removed.
    """
    from afictl.evaluation.confusion_matrix import compute_confusion
    from afictl.evaluation.views import record_of

    dataset = settings.dataset
    content = {
        "source": str(source),
        "data": str(dataset.annotation_file),
        "split": settings.split,
        "limit": settings.limit,
        "images": min(len(dataset), settings.limit or len(dataset)),
        "settings": settings.overrides,
        "evaluator": settings.evaluator,
        **record_of(settings.views),
        "metrics": evaluation.metrics,
        "per_class": evaluation.per_class,
    }
    remove_earlier(folder, keep=inputs)
    write_json(folder / EVALUATION, content)
    write_csv(folder / PER_CLASS, list(evaluation.per_class[0]), (row.values() for row in evaluation.per_class))
    if settings.curves:
        _write_curves(folder, evaluation)
    if (score := settings.confusion_score) is not None:
        _write_confusion(folder, compute_confusion(predictions, dataset, image_ids=settings.image_ids, score=score))


def write_comparison(folder: Path, results: Mapping[str, Evaluation]) -> None:
    """Write ``comparison.json`` and ``comparison.csv``: each metric of each source, and its difference to the first."""
    first, *_ = results.values()
    rows = [
        (name, metric, result.metrics[metric], difference(result, first, metric))
        for name, result in results.items()
        for metric in result.metrics
    ]
    header = ("name", "metric", "value", "difference")
    records = [dict(zip(header, row, strict=True)) for row in rows]
    write_json(folder / COMPARISON, records)
    write_csv(folder / COMPARISON_CSV, header, rows)


def _write_curves(folder: Path, result: Evaluation) -> None:
    """Write ``pr_curves.png`` and ``pr_curves.csv``; precision is empty where a class has no object."""
    from afictl.evaluation.metrics import CURVE_IOU_INDEX
    from afictl.visualization.evaluation_plots import plot_precision_recall

    classes = [row["name"] for row in result.per_class]
    plot_precision_recall(result.precision, classes, folder / _CURVES[0])
    rows = [
        (kind, name, recall / 100, *(None if p < 0 else float(p) for p in precision[recall]))
        for kind, values in result.precision.items()
        for k, name in enumerate(classes)
        for precision in [values[list(CURVE_IOU_INDEX.values()), :, k, 0].T]
        for recall in range(len(precision))
    ]
    header = ("of", "class", "recall", *(f"precision at IoU 0.{iou}" for iou in CURVE_IOU_INDEX))
    write_csv(folder / _CURVES[1], header, rows)


def _write_confusion(folder: Path, confusion: ConfusionMatrix) -> None:
    """Write ``confusion.png`` and ``confusion.csv``."""
    from afictl.visualization.evaluation_plots import plot_confusion

    note = f"IoU ≥ 0.5, score ≥ {confusion.score:g}"
    plot_confusion(confusion.counts, confusion.classes, folder / _CONFUSION[0], note=note)
    names = [*confusion.classes, "background"]
    rows = ([name, *counts] for name, counts in zip(names, confusion.counts.tolist(), strict=True))
    write_csv(folder / _CONFUSION[1], ("object", *confusion.classes, "missed"), rows)
