"""What an existing run found on the held-out images."""

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
from afictl.visualization.training_curves import read_metrics
from afictl.weights import load_detector

_SAME = 0.01
"""Points of 100: more than the evaluators differ by."""


def evaluate_run(
    fabric: Fabric, run: FinishedRun, index: Dataset, progress: ProgressDisplay = no_progress
) -> ComparisonRun:
    """What the run found on the held-out images; it detects again, and keeps that, where it has not kept it.

    Raises:
        UserError: what it kept does not belong to these images, or to other objects or classes.
    """
    kept = (run.folder / PREDICTIONS).is_file()
    result = _score(run, index) if kept else _detect(fabric, run, index, progress)
    return ComparisonRun(run.seed, run.folder, result.metrics, result.per_class, _training_seconds(run.folder))


def _score(run: FinishedRun, index: Dataset) -> Evaluation:
    """The score of what the run kept; it is that which the run recorded, unless the data are not the same."""
    classes, ids = run.metadata.get("classes"), run.metadata.get("category_ids")
    own = match_categories(classes, index, owner=str(run.folder))
    if ids is not None and list(own) != list(ids):
        raise UserError(f"{run.folder}: its classes have other ids than in {_of(index)}")
    result = score_predictions(run.folder / PREDICTIONS, index, masks=run.preset.detector.masks)
    recorded, found = (metrics.get("box/AP") for metrics in (run.metadata.get("metrics") or {}, result.metrics))
    if recorded is not None and (found is None or abs(found - recorded) > _SAME):
        now = "none" if found is None else f"{found:.1f}"
        raise UserError(
            f"{run.folder}: its box AP was {recorded:.1f} when it was trained and is {now} on {_of(index)}, so that the"
            " data are not the same; 'afictl eval --weights' compares detectors on other data"
        )
    return result


def _of(index: Dataset) -> str:
    return str(index.annotation_file)


def _detect(fabric: Fabric, run: FinishedRun, index: Dataset, progress: ProgressDisplay) -> Evaluation:
    loaded = load_detector(run.folder / LAST)
    with progress("images") as show:
        return evaluate(
            fabric.to_device(loaded.detector),
            index,
            Runtime.of_fabric(fabric, run.preset.loader.workers),
            predictions=run.folder / PREDICTIONS,
            classes=loaded.classes,
            progress=show,
        )


def _training_seconds(folder: Path) -> float | None:
    """Time spent in steps, from the mean times that the run recorded; None where it recorded none."""
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
