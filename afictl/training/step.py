"""What the steps of all stages share: the stream of batches, the update, and detectors as the thing trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from afictl.data import CocoIndex, TrainBatch, train_batches
from afictl.detectors import Detector
from afictl.errors import UserError
from afictl.evaluation import evaluate
from afictl.interpolators import AFInterpolator
from afictl.presets import InputConfig, LoaderConfig, Recipe
from afictl.training.loop import Metrics
from afictl.training.run import BEST, INTERPOLATOR
from afictl.weights import save_detector

Splits = tuple[CocoIndex, CocoIndex]
"""Images to train on, held-out images."""


def batch_source(
    fabric: Fabric,
    index: CocoIndex,
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
            **options,
        )

    return batches


def update(
    fabric: Fabric, module: nn.Module, optimizer: Optimizer, losses: Mapping[str, Tensor], recipe: Recipe
) -> None:
    """One optimiser step on the sum of ``losses``, with clipped gradients where the recipe says so."""
    optimizer.zero_grad()
    fabric.backward(torch.stack(list(losses.values())).sum())
    if recipe.clip_norm:
        # A mixed-precision scaler skips steps that are not finite, so they are no error here.
        fabric.clip_gradients(module, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
    optimizer.step()


def uses_masks(detector: Detector, data: Splits) -> bool:
    """Whether the detector trains on masks.

    Raises:
        UserError: it does and a split has none.
    """
    if detector.preset.detector.kind != "mask-rcnn":
        return False
    for index in data:
        if not index.has_masks:
            raise UserError(
                f"{index.annotation_file}: no annotation has a 'segmentation', which {detector.preset.name} trains on;"
                " choose a detector without masks"
            )
    return True


def measure(fabric: Fabric, detector: Detector, held_out: CocoIndex) -> Callable[[], Metrics]:
    """A function that evaluates the detector as it then is on the held-out images."""

    def metrics() -> Metrics:
        result = evaluate(
            detector,
            held_out,
            workers=detector.preset.loader.workers,
            device=fabric.device,
            autocast=fabric.autocast,
        )
        return result.metrics

    return metrics


def box_ap(metrics: Metrics) -> float:
    """What decides which weights are best."""
    return float(metrics["box/AP"] or 0.0)


def save_weights(path: Path, detector: Detector, index: CocoIndex, step: int, metrics: Metrics) -> None:
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
