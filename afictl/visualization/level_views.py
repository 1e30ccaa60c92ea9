"""The guide's features of a half-size image as interpolators enlarge them, and those of the image itself, as numbers.

Views and pairs are those of stage 1 (AFI-GAN, section 3), and so are the distances: L1 and cosine of the channel
vectors, averaged over the positions inside the image. Legend: C channels, h x w a level's map inside the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from afictl.data.transforms import half_size, resize_for, to_float, view
from afictl.detectors import Detector
from afictl.training.adversarial import Pair, extent, sizes_of
from afictl.training.feature_distance import enlarged_pairs, position_distance

_GUIDED = ("fade", "sapa")
"""Kinds that cannot do without a finer map."""


@dataclass(frozen=True)
class LevelView:
    """One level of one image, on the CPU."""

    level: str
    stride: int
    """Pixels of the image between positions of ``goal``."""
    coarse: Tensor
    """(C, ceil(h/2), ceil(w/2)): the guide's feature of the half-size image."""
    goal: Tensor
    """(C, h, w): the guide's feature of the image."""
    enlarged: Mapping[str, Tensor]
    """(C, h, w) by interpolator; one that needs a finer map is missing where there is none."""
    error: Mapping[str, Tensor]
    """(h, w): mean absolute difference, of the same interpolators."""
    distance: Mapping[str, Mapping[str, float]]
    """``l1`` and ``cosine`` by interpolator, as stage 1 measures them."""


@torch.no_grad()
def level_views(
    guide: Detector, interpolators: Mapping[str, nn.Module], image: Tensor, levels: Sequence[str]
) -> Iterator[LevelView]:
    """Enlarge the guide's features of ``image``, uint8 (3, H, W) RGB, level by level."""
    device = next(guide.parameters()).device
    full = resize_for(guide.input, image).to(device)
    half = to_float(view(image, half_size((full.shape[1], full.shape[2])), flip=False).to(device))
    real = guide.pyramid([full])
    coarse, fine = pyramid_and_fine(guide, half)
    for level in levels:
        pairs = {
            name: enlarged_pairs(guide, {level: module(coarse[level], fine.get(level))}, real, [full], [half])[level]
            for name, module in interpolators.items()
            if level in fine or not is_guided(module)
        }
        stride = guide.neck.strides[level]
        ends = zip(extent(sizes_of([half]), stride, times=2)[0], extent(sizes_of([full]), stride)[0], strict=True)
        h, w = map(min, ends)
        yield _level_view(level, stride, coarse[level], real[level][0, :, :h, :w], pairs)


@torch.no_grad()
def pyramid_and_fine(guide: Detector, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The guide's maps of ``image``, and the finer ones that its neck hands the interpolator, by the level below them.

    In an FPN and a PAFPN these are the lateral maps: the one of ``p2`` belongs to ``p3``. In a BiFPN they are what a
    layer gets, and those of the last layer are taken, which lie beside the maps that leave the neck. A neck enlarges
    neither its finest level nor the levels that it makes by halving (``p6`` of an FPN), so that these have none.

    Args:
        image: float (3, H, W) RGB in 0..1.
    """
    handed: list[Tensor] = []
    hook = guide.neck.interpolator.register_forward_pre_hook(lambda _, maps: handed.append(maps[1]))
    try:
        pyramid = guide.pyramid([image])
    finally:
        hook.remove()
    levels = {stride: level for level, stride in guide.neck.strides.items()}
    finest = min(levels)
    width = pyramid[levels[finest]].shape[-1] * finest  # padded: all these maps have exactly their part of it
    return pyramid, {levels[2 * width // value.shape[-1]]: value for value in handed}


def is_guided(module: nn.Module) -> bool:
    """Whether an interpolator cannot do without a finer map."""
    return module.kind in _GUIDED


def _level_view(level: str, stride: int, coarse: Tensor, goal: Tensor, pairs: Mapping[str, Pair]) -> LevelView:
    errors, distance = {}, {}
    h, w = goal.shape[1:]
    for name, each in pairs.items():
        l1, cosine = (value[0, :h, :w].cpu() for value in position_distance(each))
        errors[name], distance[name] = l1, {"l1": float(l1.mean()), "cosine": float(cosine.mean())}
    return LevelView(
        level,
        stride,
        coarse[0, :, : (h + 1) // 2, : (w + 1) // 2].cpu(),
        goal.cpu(),
        {name: each.fake[0, :, :h, :w].cpu() for name, each in pairs.items()},
        errors,
        distance,
    )
