"""Features of a guide, and pairs of generated and guide maps.

For stage 1 they are finished levels, or the maps that its neck passes to its interpolator: AFI-GAN (section 3) trains
on the finished levels, but a detector enlarges maps before their output convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from afictl.detectors import Detector
from afictl.detectors.upsampling_calls import UpsamplingCall, pyramid_and_calls
from afictl.presets import GuideFeatures
from afictl.training.adversarial import Pair, Pyramid, extent, make_pairs, sizes_of


class GuideMaps(NamedTuple):
    """Maps of one batch of images by level, finest first."""

    maps: Pyramid
    """(N,C,h,w), to enlarge for half-size images, targets for the images themselves."""
    fine: Pyramid
    """(N,C,2h or 2h-1,2w or 2w-1) by the level of ``maps`` that belongs to it; absent where there is none."""


def guide_maps(
    guide: Detector, images: Sequence[Tensor], features: GuideFeatures, across_ranks: bool = False
) -> GuideMaps:
    """Features of ``images``.

    ``levels`` are those of the pyramid, each with the next finer one. ``sums`` are the maps that the guide's neck
    passes to its interpolator, which are sums of a lateral and an enlarged map but for the coarsest, with the fine maps
    that it passes along. A BiFPN calls its interpolator once a level and layer; the maps of all its layers are one
    batch of ``layers x N``, those of the first layer first, so that a level has the same weight in every neck.

    Args:
        guide: in eval mode.
        images: float (3, H, W) RGB in 0..1.
        features: ``levels`` or ``sums``.
        across_ranks: see ``Detector.batch``.
    """
    if features == "levels":
        pyramid = guide.pyramid(images, across_ranks)
        return GuideMaps(pyramid, {coarse: pyramid[finer] for finer, coarse in pairwise(pyramid)})
    _, calls = pyramid_and_calls(guide, images, across_ranks)
    calls_by_level: dict[str, list[UpsamplingCall]] = {level: [] for level in guide.neck.strides}
    for call in calls:
        calls_by_level[call.level].append(call)
    levels = {level: level_calls for level, level_calls in calls_by_level.items() if level_calls}
    return GuideMaps(
        {level: torch.cat([call.coarse for call in level_calls]) for level, level_calls in levels.items()},
        {level: torch.cat(fine) for level, level_calls in levels.items() if (fine := _fine_maps(level_calls))},
    )


def _fine_maps(calls: Sequence[UpsamplingCall]) -> list[Tensor]:
    return [call.fine for call in calls if call.fine is not None]


def enlarged_pairs(
    guide: Detector, fake: Pyramid, real: Pyramid, full: list[Tensor], half: list[Tensor]
) -> dict[str, Pair]:
    """Pairs of enlarged half-view maps and the guide's maps of the full view (stage 1).

    Args:
        guide: the guide.
        fake: enlarged maps of ``half``, ``k x N`` of them with the same k as in ``real``.
        real: maps of ``full``.
        full: the N images.
        half: their half-size views.
    """
    strides = guide.neck.strides
    half_sizes, full_sizes = (
        {level: sizes_of(images) * (len(value) // len(images)) for level, value in fake.items()}
        for images in (half, full)
    )
    return make_pairs(
        fake,
        real,
        {level: extent(sizes, strides[level], times=2) for level, sizes in half_sizes.items()},
        {level: extent(sizes, strides[level]) for level, sizes in full_sizes.items()},
    )


def same_size_pairs(
    guide: Detector, fake: Pyramid, real: Pyramid, full: list[Tensor], half: list[Tensor]
) -> dict[str, Pair]:
    """Pairs of a student's levels of the half-size view and every second position of the guide's levels (stage 2).

    Args:
        guide: the guide.
        fake: levels of ``half``.
        real: levels of ``full``.
        full: the N images.
        half: their half-size views.
    """
    strides = guide.neck.strides
    return make_pairs(
        fake,
        {level: value[..., ::2, ::2] for level, value in real.items()},
        {level: extent(sizes_of(half), strides[level]) for level in fake},
        {level: extent(sizes_of(full), 2 * strides[level]) for level in fake},
    )
