"""What ``afictl eval`` leaves in its folder beside the predictions."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afictl.cli.outputs import write_json
from afictl.cli.tables import difference
from afictl.errors import UserError
from afictl.files import remove_temporary_files, write_csv
from afictl.run_folder import COMPARISON, COMPARISON_CSV, COMPARISON_SETTINGS, EVALUATION, PER_CLASS, PREDICTIONS

if TYPE_CHECKING:
    from afictl.evaluation import Evaluation
    from afictl.evaluation.confusion_matrix import ConfusionMatrix

_COMPARISON = (COMPARISON, COMPARISON_CSV)
_PICTURES = ("pr_curves.png", "pr_curves.csv", "confusion.png", "confusion.csv")
_ZIPS = "detections_*_results.zip"


def require_no_grid(folder: Path) -> None:
    """Refuse a folder of ``afictl compare``, whose files have the same names.

    Raises:
        UserError: it is one.
    """
    table = folder / _COMPARISON[0]
    if (folder / COMPARISON_SETTINGS).exists() or (table.is_file() and not _is_ours(table)):
        raise UserError(f"{folder}: holds a comparison of 'afictl compare'; choose another --output")


def remove_earlier(folder: Path, keep: Collection[Path] = ()) -> None:
    """Remove all that an earlier evaluation wrote to ``folder`` but what to ``keep``: nothing old beside new results.

    A file of predictions is removed only where an earlier evaluation made it.
    """
    remove_temporary_files(folder)
    stale = [folder / name for name in (EVALUATION, PER_CLASS, *_PICTURES)]
    if _is_ours(folder / _COMPARISON[0]):
        stale += [folder / name for name in _COMPARISON]
    for kind in ("bbox", "segm"):
        remove_temporary_files(folder / kind)
        stale += (folder / kind).glob(_ZIPS)
    if _has_detected(folder):
        stale.append(folder / PREDICTIONS)
    kept = {path.resolve() for path in keep}
    for path in stale:
        if path.resolve() not in kept:
            path.unlink(missing_ok=True)


def _is_ours(table: Path) -> bool:
    """Whether a ``comparison.json`` is a list of records, not the mapping that ``afictl compare`` writes."""
    return table.is_file() and table.read_bytes()[:1] == b"["


def _has_detected(folder: Path) -> bool:
    """Whether the metrics there say that they are of a detector, not of a file of predictions."""
    try:
        source = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not str(source).endswith(".json")


def write_metrics(folder: Path, result: Evaluation, details: Mapping[str, Any]) -> None:
    """``metrics.json`` with ``details`` in front, and ``per_class.csv``."""
    content = {**details, "metrics": result.metrics, "per_class": result.per_class}
    write_json(folder / EVALUATION, content)
    write_csv(folder / PER_CLASS, list(result.per_class[0]), (row.values() for row in result.per_class))


def write_comparison(folder: Path, results: Mapping[str, Evaluation]) -> None:
    """``comparison.json`` and ``comparison.csv``: every metric of every source, and its difference to the first."""
    first, *_ = results.values()
    rows = [
        (name, metric, result.metrics[metric], difference(result, first, metric))
        for name, result in results.items()
        for metric in result.metrics
    ]
    heads = ("name", "metric", "value", "difference")
    records = [dict(zip(heads, row, strict=True)) for row in rows]
    write_json(folder / _COMPARISON[0], records)
    write_csv(folder / _COMPARISON[1], heads, rows)


def write_curves(folder: Path, result: Evaluation) -> None:
    """``pr_curves.png``, and its numbers as ``pr_curves.csv``; precision is empty where a class has no object."""
    from afictl.evaluation.metrics import IOU_INDEX
    from afictl.visualization.pr_curves import plot_precision_recall

    classes = [row["name"] for row in result.per_class]
    plot_precision_recall(result.precision, classes, folder / "pr_curves.png")
    rows = [
        (kind, name, recall / 100, *(None if p < 0 else float(p) for p in precision[recall]))
        for kind, values in result.precision.items()
        for k, name in enumerate(classes)
        for precision in [values[list(IOU_INDEX.values()), :, k, 0].T]
        for recall in range(len(precision))
    ]
    heads = ("of", "class", "recall", *(f"precision at IoU 0.{iou}" for iou in IOU_INDEX))
    write_csv(folder / "pr_curves.csv", heads, rows)


def write_confusion(folder: Path, confusion: ConfusionMatrix) -> None:
    """``confusion.png``, and its numbers as ``confusion.csv``."""
    from afictl.visualization.confusion import plot_confusion

    note = f"IoU from 0.5, score from {confusion.score:g}"
    plot_confusion(confusion.counts, confusion.classes, folder / "confusion.png", note=note)
    names = [*confusion.classes, "background"]
    rows = ([name, *counts] for name, counts in zip(names, confusion.counts.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ("object", *confusion.classes, "missed"), rows)
