"""What the steps of all stages share: the stream of batches, the update, and detectors as the thing trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from afictl.data import Dataset, TrainBatch, load_coco, train_batches
from afictl.detectors import Detector
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation import evaluate
from afictl.evaluation.classes import match_categories
from afictl.interpolators import AFInterpolator
from afictl.presets import InputConfig, LoaderConfig, Preset, Recipe
from afictl.progress import ProgressCallback
from afictl.run_folder import BEST, INTERPOLATOR, PREDICTIONS
from afictl.training.loop import Metrics
from afictl.weights import save_detector

Splits = tuple[Dataset, Dataset]
"""Images to train on, held-out images."""


def batch_source(
    fabric: Fabric,
    index: Dataset,
    view: InputConfig,
    recipe: Recipe,
    loader: LoaderConfig,
    seed: int,
    **options: bool,
) -> Callable[[int], Iterator[TrainBatch]]:
    """This rank's endless batches from a given step on; ``options`` are ``half_view`` and ``masks``."""

    def batches(start: int) -> Iterator[TrainBatch]:
        return train_batches(
            index,
            view,
            recipe.batch_size,
            seed=seed,
            start_step=start,
            workers=loader.workers,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            device=fabric.device,
            **options,
        )

    return batches


def update(
    fabric: Fabric, module: nn.Module, optimizer: Optimizer, losses: Mapping[str, Tensor], recipe: Recipe
) -> None:
    """One optimiser step on the sum of ``losses``, with clipped gradients where the recipe says so.

    Raises:
        FloatingPointError: a gradient is not finite, which would spoil the weights.
    """
    optimizer.zero_grad()
    fabric.backward(torch.stack(list(losses.values())).sum())
    # The scaler of 16-bit gradients skips steps that are not finite, so there they are no error.
    strict = fabric.strategy.precision.precision != "16-mixed"
    try:
        fabric.clip_gradients(module, optimizer, max_norm=recipe.clip_norm or math.inf, error_if_nonfinite=strict)
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        raise FloatingPointError("the gradient is not finite any more") from None
    optimizer.step()


def load_splits(folder: Path) -> Splits:
    """The train and val splits of a data set.

    Raises:
        UserError: a split that cannot be read, or whose categories have other names.
    """
    train, held_out = load_coco(folder, "train"), load_coco(folder, "val")
    known_to, source = str(train.annotation_file), str(held_out.annotation_file)
    match_categories(train.classes, held_out.classes, held_out.category_ids, known_to=known_to, source=source)
    return train, held_out


def in_label_order(data: Splits, classes: Sequence[str], source: str) -> Splits:
    """The splits with training labels as a detector of ``classes`` numbers them.

    Raises:
        UserError: the data have other classes than the detector of ``source``; placeholders of it do not count.
    """
    train, held_out = data
    match_categories(classes, train.classes, train.category_ids, known_to=source, source=str(train.annotation_file))
    return train.in_label_order(classes), held_out


def uses_masks(preset: Preset, data: Splits) -> bool:
    """Whether the preset's detector trains on masks.

    Raises:
        UserError: it does and a split has none.
    """
    if not preset.detector.masks:
        return False
    simpler = preset.detector.without_masks
    hint = f"; without masks the same detector is --set detector.kind={simpler}" if simpler else ""
    for index in data:
        if not index.has_masks:
            raise UserError(
                f"{index.annotation_file}: no annotation has a 'segmentation', which {preset.name} trains on{hint}"
            )
    return True


def detector_evaluator(
    fabric: Fabric, detector: Detector, data: Splits, folder: Path
) -> Callable[[ProgressCallback], Metrics]:
    """A function that evaluates the detector as it then is on the held-out images, of which each rank takes a share.

    What it found there is kept in ``folder``, as COCO results.
    """

    def metrics(progress: ProgressCallback) -> Metrics:
        result = evaluate(
            detector,
            data[1],
            Runtime.of_fabric(fabric, detector.preset.loader.workers),
            predictions=folder / PREDICTIONS,
            classes=data[0].classes,
            progress=progress,
        )
        return result.metrics

    return metrics


def box_ap(metrics: Metrics) -> float:
    """What decides which weights are best."""
    return float(metrics["box/AP"] or 0.0)


def save_weights(path: Path, detector: Detector, index: Dataset, step: int, metrics: Metrics) -> None:
    """Write the detector with everything needed to build and use it again, and the interpolator of the best alone."""
    metadata: dict[str, Any] = {
        "classes": list(index.classes),
        "category_ids": list(index.category_ids),
        "step": step,
        "metrics": dict(metrics),
    }
    save_detector(path, detector, metadata)
    if path.name == BEST and isinstance(detector.neck.interpolator, AFInterpolator):
        detector.neck.interpolator.save(path.with_name(INTERPOLATOR))
