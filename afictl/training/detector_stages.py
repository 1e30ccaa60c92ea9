"""Evaluation, score and checkpoints of the stages that train a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from afictl.data import Dataset, TrainBatch
from afictl.detectors import Detector
from afictl.distributed import Runtime
from afictl.evaluation import evaluate
from afictl.interpolators import Interpolator
from afictl.progress import ProgressCallback
from afictl.run_folder import BEST, INTERPOLATOR, PREDICTIONS
from afictl.tensor_files import save_tensors
from afictl.training.optimization import TrainableModule
from afictl.training.splits import Splits
from afictl.training.stage import TRIAL_IMAGES, Metrics, Stage
from afictl.weights import save_detector
from afictl.weights.description import AVERAGED


def build_detector_stage(
    fabric: Fabric,
    name: str,
    folder: Path,
    detector: Detector,
    data: Splits,
    *,
    modules: Mapping[str, TrainableModule],
    step: Callable[[TrainBatch], Mapping[str, Tensor]],
    batches: Callable[[int], Iterator[TrainBatch]],
    average: AveragedModel | None = None,
    patience: int | None = None,
) -> Stage:
    """A stage whose best weights have the highest box AP on the held-out images.

    Args:
        fabric: the launched Fabric.
        name: of the stage.
        folder: of the run; the COCO results of the latest evaluation are written to it.
        detector: the module to evaluate and export, unless its ``average`` is.
        data: training images, for the classes, and held-out images.
        modules: as in ``Stage``, like ``step``, ``batches``, ``average`` and ``patience``.
    """
    if average is not None:
        detector = cast(Detector, average.module)
    runtime = Runtime.of_fabric(fabric, detector.preset.loader.workers)

    def evaluate_detector(progress: ProgressCallback) -> Metrics:
        predictions, classes = folder / PREDICTIONS, data.train.classes
        return evaluate(
            detector, data.held_out, runtime, predictions=predictions, classes=classes, progress=progress
        ).metrics

    def try_evaluation() -> None:
        limit = TRIAL_IMAGES * runtime.world_size
        evaluate(detector, data.held_out, runtime, classes=data.train.classes, limit=limit)

    return Stage(
        name=name,
        modules=modules,
        step=step,
        batches=batches,
        evaluate=evaluate_detector,
        score=lambda metrics: float(metrics["box/AP"] or 0.0),
        export=lambda path, description: _export(path, detector, data.train, description, average is not None),
        average=average,
        patience=patience,
        try_evaluation=try_evaluation,
    )


def _export(
    path: Path, detector: Detector, dataset: Dataset, description: Mapping[str, object], is_averaged: bool
) -> None:
    """Write the detector with its classes and metrics; beside the best weights, also its interpolator alone."""
    average_mark = {AVERAGED: True} if is_averaged else {}
    metadata: dict[str, object] = {
        "classes": list(dataset.classes),
        "category_ids": list(dataset.category_ids),
        **description,
        **average_mark,
    }
    save_detector(path, detector, metadata)
    interpolator = detector.neck.interpolator
    if path.name == BEST and isinstance(interpolator, Interpolator) and interpolator.learned:
        save_tensors(path.with_name(INTERPOLATOR), interpolator.state_dict(), interpolator.description | average_mark)
