"""Gradient accumulation: the gradients of a batch from micro-batches, computed one after another in less memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from afictl.detectors import Detector
from afictl.distributed import max_over_ranks
from afictl.total_batch import MicroBatches
from afictl.training.optimization import TrainableModule

Targets = Sequence[dict[str, Any]]


def backward_in_micro_batches(
    fabric: Fabric,
    trainable: TrainableModule,
    images: Sequence[Tensor],
    targets: Targets,
    number: int,
    groups: Sequence[int],
) -> dict[str, Tensor]:
    """Replace the gradients by those of the losses of the total batch, and return the losses.

    Losses and gradients equal those of one pass over all images up to rounding, where no batch norm is trained. To
    that end each micro-batch is passed twice: without gradients for the counts that losses are divided by, then with
    them. Every pass begins with the same random state, and with the buffers of the start of the step, except those of
    batch norms, which follow every micro-batch.

    Args:
        fabric: the launched Fabric.
        trainable: ``module(images, targets)`` returns losses.
        images: (3, H, W) of this rank, on its device.
        targets: of the images.
        number: of micro-batches; 1 is a single pass.
        groups: numbers of images that the module passes separately, in this order, such as labelled and
            pseudo-labelled ones; each a multiple of ``number``.
    """
    if number == 1:
        return trainable.backward(trainable.module(images, targets))
    total = MicroBatches(number, [max_over_ranks(_largest(group), fabric.device) for group in _split(images, groups)])
    parts = list(zip(_micro_batches(images, number, groups), _micro_batches(targets, number, groups), strict=True))
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    buffers = Buffers(trainable.module)
    losses: dict[str, Tensor] = {}
    with torch.no_grad():
        for index, part in enumerate(parts):
            with total.counting(index), torch.random.fork_rng(devices):
                trainable.module(*part)
    total.exchange()
    buffers.restore(norms=True)
    for index, part in enumerate(parts):
        is_last = index + 1 == number
        with (
            total.training(index),
            torch.random.fork_rng(devices),
            fabric.no_backward_sync(trainable.module, enabled=not is_last),
        ):
            losses = trainable.backward(trainable.module(*part), accumulates=index > 0)
        if not is_last:
            buffers.restore(norms=False)
    return losses


def accumulation_notes(detector: Detector, dependence: str) -> list[str]:
    """Log lines on the micro-batches of a training: their size, and why they are not exactly one batch.

    Args:
        detector: with the recipe in its preset.
        dependence: result of ``process_dependence``.
    """
    recipe = detector.preset.train
    if recipe.accumulate == 1:
        return []
    is_normalised = any(isinstance(m, _NormBase) and m.training for m in detector.modules())
    reasons = [
        *(["batch norm has the statistics of a micro-batch"] if is_normalised else []),
        *filter(None, [dependence]),
    ]
    images = f"{recipe.micro_batch_size} image{'s' * (recipe.micro_batch_size > 1)}"
    size = f"{recipe.accumulate} micro-batches a step, of {images} each"
    return [size, *(f"note: results depend on train.accumulate, as {reason}" for reason in reasons)]


class Buffers:
    """Copies of the buffers of a module."""

    def __init__(self, module: nn.Module) -> None:
        self._copies = [
            (buffer, buffer.clone(), isinstance(child, _NormBase))
            for child in module.modules()
            for buffer in child.buffers(recurse=False)
        ]

    def restore(self, norms: bool) -> None:
        """Write the copies back, with ``norms`` also those of batch norms."""
        for buffer, copy, is_norm in self._copies:
            if norms or not is_norm:
                buffer.copy_(copy)


def _split(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[Sequence[Any]]:
    """Consecutive parts of ``items`` of these sizes."""
    ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return (items[start:end] for start, end in pairwise(ends))


def _micro_batches(items: Sequence[Any], number: int, groups: Sequence[int]) -> list[list[Any]]:
    """``number`` parts of ``items``, each with its share of every group."""
    shares = [list(_split(group, [len(group) // number] * number)) for group in _split(items, groups)]
    return [[item for share in parts for item in share] for parts in zip(*shares, strict=True)]


def _largest(images: Sequence[Tensor]) -> list[int]:
    """Largest height and largest width."""
    return [max(image.shape[dim] for image in images) for dim in (1, 2)]
