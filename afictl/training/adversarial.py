"""AFI-GAN's feature losses: the discriminator's step and the generator's terms, shared by stages 1 and 2.

Source: AFI-GAN, section 3 (losses). Two departures from the published code: the adversarial gradient
reaches the generator, and only positions inside both images count, not the padding of the batch.

Legend: a pyramid is a dict of maps (N,C,h,w) by level name, finest first; sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afictl.distributed import world_size
from afictl.interpolators import Interpolator
from afictl.presets import AdversarialRecipe
from afictl.total_batch import loss_divisor
from afictl.training.optimization import TrainableModule

Pyramid = dict[str, Tensor]
Sizes = Sequence[tuple[int, int]]


class PerLevel(nn.Module):
    """Applies one module to every map of a pyramid, so that DDP wraps a single forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: Pyramid) -> Pyramid:
        """Maps of the same names."""
        return {level: self.module(value) for level, value in maps.items()}


class PyramidInterpolator(nn.Module):
    """Enlarges the maps of a pyramid with one interpolator, in a single forward as ``PerLevel``."""

    def __init__(self, interpolator: Interpolator) -> None:
        super().__init__()
        self.module = interpolator  # saved states hold this name

    def forward(self, coarse: Pyramid, fine: Pyramid) -> Pyramid:
        """Maps (N,C,h,w) -> the ``levels``, (N,C,2h,2w).

        Args:
            coarse: the maps.
            fine: fine maps by the level of ``coarse``; an interpolator that needs them enlarges these levels only.
        """
        return {level: self.module(coarse[level], fine.get(level)) for level in self.levels(coarse, fine)}

    def levels(self, coarse: Pyramid, fine: Pyramid) -> list[str]:
        """The levels that are enlarged."""
        return [level for level in coarse if level in fine or not self.module.needs_fine]


@dataclass(frozen=True)
class Pair:
    """Generated and target maps of one level, cropped to their common size, and a mask without padding."""

    fake: Tensor
    """(N,C,h,w), carries the generator's gradient."""
    real: Tensor
    """(N,C,h,w), without gradient."""
    mask: Tensor
    """(N,1,h,w) of 0 and 1."""

    @property
    def has_statistics(self) -> bool:
        """False where the discriminator's batch norm has one value per channel, which it cannot normalise."""
        n, _, h, w = self.fake.shape
        return n * h * w > 1 or world_size() > 1


def make_pairs(
    fake: Pyramid, real: Pyramid, fake_extent: Mapping[str, Sizes], real_extent: Mapping[str, Sizes]
) -> dict[str, Pair]:
    """Pair generated with target maps level by level.

    Extents are the part of each image's map, (height, width) in positions from the top left, that is image and not
    padding.
    """
    pairs = {}
    for level, generated in fake.items():
        target = real[level]
        h, w = min(generated.shape[2], target.shape[2]), min(generated.shape[3], target.shape[3])
        mask = _image_mask(fake_extent[level], h, w, target) * _image_mask(real_extent[level], h, w, target)
        pairs[level] = Pair(generated[..., :h, :w], target[..., :h, :w].detach(), mask)
    return pairs


def extent(sizes: Sizes, stride: float, times: int = 1) -> list[tuple[int, int]]:
    """Positions of a map of the given stride that begin inside each image, ``times`` as many after enlargement."""
    return [(times * math.ceil(h / stride), times * math.ceil(w / stride)) for h, w in sizes]


def sizes_of(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """(height, width) of each image."""
    return [(image.shape[-2], image.shape[-1]) for image in images]


def _image_mask(sizes: Sizes, height: int, width: int, like: Tensor) -> Tensor:
    mask = torch.zeros(len(sizes), 1, height, width, device=like.device)
    for row, (h, w) in zip(mask, sizes, strict=True):
        row[:, :h, :w] = 1
    return mask


def discriminator_step(discriminator: TrainableModule, pairs: Mapping[str, Pair]) -> Tensor:
    """One update of the discriminator: real maps to 1, generated maps to 0; every level has the same weight.

    Returns:
        The sum over levels of both cross-entropies, a scalar.
    """
    maps: Pyramid = {}
    for level, pair in _discriminable(pairs).items():
        maps[f"{level}.real"] = pair.real * pair.mask
        maps[f"{level}.fake"] = pair.fake.detach() * pair.mask
    logits = discriminator.module(maps)
    terms = [
        _cross_entropy(logits[f"{level}.{kind}"], target, pair.mask)
        for level, pair in _discriminable(pairs).items()
        for kind, target in (("real", 1.0), ("fake", 0.0))
    ]
    loss = torch.stack(terms).sum()
    discriminator.backward({"loss_discriminator": loss})
    discriminator.optimizer_step()
    return loss.detach()


def feature_losses(discriminator: nn.Module, pairs: Mapping[str, Pair], recipe: AdversarialRecipe) -> dict[str, Tensor]:
    """The generator's terms summed over levels: ``loss_l1`` and, unless its weight is 0, ``loss_adversarial``."""
    l1 = [_masked_mean((pair.fake.float() - pair.real.float()).abs(), pair.mask) for pair in pairs.values()]
    losses = {"loss_l1": torch.stack(l1).sum()}
    if recipe.adversarial_weight:
        discriminable = _discriminable(pairs)
        # Only the path through the discriminator is needed, not the gradients of its parameters.
        discriminator.requires_grad_(False)
        logits = discriminator({f"{level}.fake": pair.fake * pair.mask for level, pair in discriminable.items()})
        discriminator.requires_grad_(True)
        terms = [_cross_entropy(logits[f"{level}.fake"], 1.0, pair.mask) for level, pair in discriminable.items()]
        losses["loss_adversarial"] = recipe.adversarial_weight * torch.stack(terms).sum()
    return losses


def _discriminable(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    return {level: pair for level, pair in pairs.items() if pair.has_statistics}


def _cross_entropy(logits: Tensor, target: float, mask: Tensor) -> Tensor:
    logits = logits.float()
    values = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")
    return _masked_mean(values, mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked positions of all ranks."""
    count = loss_divisor(mask.sum() * values.shape[1], values)
    return (values * mask).sum() / count
