"""Features of a half-size image enlarged by interpolators, and their distance to the features of the image.

Pairs and distances are those of stage 1 (AFI-GAN, section 3): L1 and cosine of the channel vectors, averaged over the
positions inside the image. Legend: C channels; h x w the part of a level's map inside the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afictl.data.transforms import half_size, resize_for, to_float, view
from afictl.detectors import Detector
from afictl.detectors.upsampling_calls import pyramid_and_calls
from afictl.errors import UserError
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.presets import GuideFeatures
from afictl.training.adversarial import Pair, extent, sizes_of
from afictl.training.feature_distance import position_distance
from afictl.training.guide_features import enlarged_pairs, guide_maps


@dataclass(frozen=True)
class LevelFeatures:
    """Feature maps of one level for one image, on the CPU."""

    level: str
    stride: int
    """Pixels of the image between positions of ``target``."""
    coarse: Tensor
    """(C, ceil(h/2), ceil(w/2)): the guide's features of the half-size image."""
    target: Tensor
    """(C, h, w): the guide's features of the image."""
    enlarged: Mapping[str, Tensor]
    """(C, h, w) by interpolator, without interpolators that lack the finer map that they need."""
    error: Mapping[str, Tensor]
    """(h, w) mean absolute difference, by interpolator."""
    distance: Mapping[str, Mapping[str, float]]
    """Mean ``l1`` and ``cosine``, by interpolator.

    Computed as in stage 1, but kinds that need a fine map get the one that the neck passes to them, in stage 1 on
    ``levels`` the next finer level of the pyramid."""


@torch.no_grad()
def enlarge_levels(
    guide: Detector, interpolators: Mapping[str, Interpolator], image: Tensor, levels: Sequence[str]
) -> Iterator[LevelFeatures]:
    """Yield the features of ``image``, uint8 (3, H, W) RGB, for each level.

    They are those of ``stage1.features`` in the guide's preset, and of a BiFPN's sums those of its last layer.

    Args:
        guide: detector in eval mode.
        interpolators: interpolator by name.
        image: to resize as in evaluation.
        levels: levels of the guide; all that have such features if empty.

    Raises:
        UserError: a level without such features.
    """
    device = next(guide.parameters()).device
    full = resize_for(guide.input, image).to(device)
    half = to_float(view(image, half_size((full.shape[1], full.shape[2])), flip=False).to(device))
    features = guide.preset.stage1.features
    real = _last(guide_maps(guide, [full], features).maps)
    coarse, fine = _coarse_and_fine(guide, half, features)
    for level in levels or coarse:
        if level not in coarse:
            raise UserError(
                f"--levels {level}: the guide's neck does not enlarge it, and stage 1 trains on the maps that it"
                f" enlarges: {', '.join(coarse)}"
            )
        index = list(guide.neck.strides).index(level)
        pairs = {
            name: enlarged_pairs(guide, {level: enlarged}, real, [full], [half])[level]
            for name, enlarged in _enlarge(interpolators, index, coarse[level], fine.get(level)).items()
        }
        stride = guide.neck.strides[level]
        ends = zip(extent(sizes_of([half]), stride, times=2)[0], extent(sizes_of([full]), stride)[0], strict=True)
        h, w = map(min, ends)
        yield _level_features(level, stride, coarse[level], real[level][0, :, :h, :w], pairs)


def _enlarge(
    interpolators: Mapping[str, Interpolator], index: int, coarse: Tensor, fine: Tensor | None
) -> dict[str, Tensor]:
    """The map of the level of an ``index`` enlarged by each interpolator, but those that lack the ``fine`` map.

    Of interpolators with a module for each step it is the one of that level.
    """
    modules = {
        name: module.of_level(index) if isinstance(module, PerStepInterpolator) else module
        for name, module in interpolators.items()
    }
    return {name: module(coarse, fine) for name, module in modules.items() if fine is not None or not module.needs_fine}


def _coarse_and_fine(
    guide: Detector, image: Tensor, features: GuideFeatures
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps to enlarge, and the fine maps that the neck passes to its interpolator, by level."""
    if features == "levels":
        return pyramid_and_fine(guide, image)
    maps, fine = guide_maps(guide, [image], features)
    return _last(maps), _last(fine)


def _last(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The maps of the last layer of a neck."""
    return {level: value[-1:] for level, value in maps.items()}


@torch.no_grad()
def pyramid_and_fine(guide: Detector, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pyramid of ``image``, and the finer maps that the neck passes to its interpolator, by the coarse level.

    In FPN and PAFPN these are the lateral maps: that of ``p2`` belongs to ``p3``. In BiFPN they are inputs of the last
    layer, which correspond to the outputs of the neck. A neck enlarges neither its finest level nor levels made by
    downsampling (``p6`` of an FPN), so these have no finer map.

    Args:
        guide: detector in eval mode.
        image: float (3, H, W) RGB in 0..1.
    """
    pyramid, calls = pyramid_and_calls(guide, [image])
    return pyramid, {call.level: call.fine for call in calls if call.fine is not None}


def _level_features(
    level: str, stride: int, coarse: Tensor, target: Tensor, pairs: Mapping[str, Pair]
) -> LevelFeatures:
    errors, distance = {}, {}
    h, w = target.shape[1:]
    for name, pair in pairs.items():
        l1, cosine = (value[0, :h, :w].cpu() for value in position_distance(pair))
        errors[name], distance[name] = l1, {"l1": float(l1.mean()), "cosine": float(cosine.mean())}
    return LevelFeatures(
        level,
        stride,
        coarse[0, :, : (h + 1) // 2, : (w + 1) // 2].cpu(),
        target.cpu(),
        {name: pair.fake[0, :, :h, :w].cpu() for name, pair in pairs.items()},
        errors,
        distance,
    )
