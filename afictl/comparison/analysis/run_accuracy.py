"""Accuracy and training time of an existing run."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.analysis.existing_runs import FinishedRun
from afictl.comparison.results import ComparisonRun
from afictl.data import Dataset
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation import Evaluation, evaluate, score_predictions
from afictl.evaluation.category_matching import match_categories
from afictl.progress import ProgressDisplay, no_progress
from afictl.run_folder import LAST, PREDICTIONS
from afictl.run_records import read_metrics
from afictl.weights import load_detector

_TOLERANCE_POINTS = 0.01
"""Larger than any difference between the evaluators."""


def evaluate_run(
    fabric: Fabric, run: FinishedRun, dataset: Dataset, progress: ProgressDisplay = no_progress
) -> ComparisonRun:
    """Score ``predictions.json`` of a run on the held-out images; if the file is absent, detect and write it first.

    Raises:
        UserError: the stored predictions are of other images, objects or classes.
    """
    stored = (run.folder / PREDICTIONS).is_file()
    result = _score(run, dataset) if stored else _detect(fabric, run, dataset, progress)
    return ComparisonRun(run.seed, run.folder, result.metrics, result.per_class, _training_seconds(run.folder))


def _score(run: FinishedRun, dataset: Dataset) -> Evaluation:
    """Score the stored predictions; a box AP other than the recorded one shows that the data have changed."""
    classes, recorded_ids = run.description.classes, run.description.category_ids
    category_ids = match_categories(classes, dataset, owner=str(run.folder))
    if recorded_ids is not None and list(category_ids) != list(recorded_ids):
        raise UserError(
            f"{run.folder}: its classes have other category ids than {dataset.annotation_file};"
            f" remove {run.folder / PREDICTIONS} to detect again"
        )
    result = score_predictions(run.folder / PREDICTIONS, dataset, masks=run.preset.detector.masks)
    recorded, present = (metrics.get("box/AP") for metrics in (run.description.metrics, result.metrics))
    if recorded is not None and (present is None or abs(present - recorded) > _TOLERANCE_POINTS):
        value = "none" if present is None else f"{present:.1f}"
        raise UserError(
            f"{run.folder}: its recorded box AP is {recorded:.1f}, that on {dataset.annotation_file} is {value}, so the"
            " data are different; use 'afictl eval --weights' to compare detectors on other data"
        )
    return result


def _detect(fabric: Fabric, run: FinishedRun, dataset: Dataset, progress: ProgressDisplay) -> Evaluation:
    loaded = load_detector(run.folder / LAST)
    with progress("images") as show:
        return evaluate(
            fabric.to_device(loaded.detector),
            dataset,
            Runtime.of_fabric(fabric, run.preset.loader.workers),
            predictions=run.folder / PREDICTIONS,
            classes=loaded.classes,
            progress=show,
        )


def _training_seconds(folder: Path) -> float | None:
    """Seconds in training steps, from the recorded means; None without a record."""
    seconds, last = 0.0, 0
    try:
        records = read_metrics(folder)
    except (OSError, UserError):
        return None
    for record in records:
        if "seconds_per_step" in record:
            seconds += (record["step"] - last) * record["seconds_per_step"]
            last = record["step"]
    return seconds if last else None
