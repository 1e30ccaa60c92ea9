"""What an existing run found on the held-out images."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.meter import Meter, silent
from afictl.comparison.model import Cell
from afictl.comparison.runs import FinishedRun
from afictl.data import CocoIndex
from afictl.errors import UserError
from afictl.evaluation import Evaluation, evaluate, score_predictions
from afictl.training.run import LAST, PREDICTIONS
from afictl.visualization.curves import read_metrics
from afictl.weights import load_detector


def measure_run(fabric: Fabric, run: FinishedRun, index: CocoIndex, meter: Meter = silent) -> Cell:
    """What the run found on the held-out images; it detects again where it has not kept that.

    Raises:
        UserError: what it kept does not belong to these images.
    """
    masks = run.preset.detector.masks
    if (run.folder / PREDICTIONS).is_file():
        result = score_predictions(run.folder / PREDICTIONS, index.annotation_file, masks=masks)
    else:
        result = _detect(fabric, run, index, meter)
    return Cell(run.seed, run.folder, result.metrics, result.per_class, _training_seconds(run.folder))


def _detect(fabric: Fabric, run: FinishedRun, index: CocoIndex, meter: Meter) -> Evaluation:
    loaded = load_detector(run.folder / LAST)
    with meter("images") as show:
        return evaluate(
            fabric.to_device(loaded.detector),
            index,
            predictions=run.folder / PREDICTIONS,
            classes=loaded.classes,
            workers=run.preset.loader.workers,
            device=fabric.device,
            autocast=fabric.autocast,
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
