"""Training batches of image positions as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice

import numpy as np
import torch

_PERMUTATION, _AUGMENTATION, _SECOND_STREAM = 0, 1, 2
"""Streams of random numbers that one seed gives."""


def batches_of(
    images: Sequence[int],
    groups: Sequence[int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augmentation_seed: int | None = None,
) -> Iterator[list[tuple[int, int]]]:
    """Endless batches of (image, augmentation seed), from batch ``start_step`` on.

    Every epoch is a seeded permutation of ``images``. A batch holds images of one group, so that little of it
    is padding; images whose group does not fill a batch are carried over to the next epoch.

    Args:
        images: positions in the dataset.
        groups: the group of each of ``images``, landscape or portrait.
        seed: of the permutations.
        augmentation_seed: of the seeds of the augmentations; None: ``seed``.
    """
    augmentation_seed = seed if augmentation_seed is None else augmentation_seed
    batches = enumerate(_grouped(images, groups, batch_size, seed))
    for step, batch in islice(batches, start_step, None):
        first = step * batch_size
        yield [(image, _mix(augmentation_seed, _AUGMENTATION, first + slot)) for slot, image in enumerate(batch)]


def second_seed(seed: int) -> int:
    """The seed of a second stream of batches, independent of that of ``seed``."""
    return _mix(seed, _SECOND_STREAM)


def _grouped(images: Sequence[int], groups: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    waiting: dict[int, list[int]] = {}
    for k in chain.from_iterable(_epoch(len(images), seed, epoch) for epoch in count()):
        batch = waiting.setdefault(groups[k], [])
        batch.append(images[k])
        if len(batch) == batch_size:
            yield waiting.pop(groups[k])


def _epoch(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(_mix(seed, _PERMUTATION, epoch))
    return torch.randperm(size, generator=generator).tolist()


def _mix(*numbers: int) -> int:
    """One seed from several numbers; consecutive numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
