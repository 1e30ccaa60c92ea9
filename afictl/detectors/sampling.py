"""Random samples of anchors and regions that do not depend on how the batch is split over ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from afictl.total_batch import share_of_total_batch


class ImageSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler with a random generator for each image, see ``image_generators``."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Sampled objects and sampled background, each a uint8 mask (n,) for each image.

        Args:
            matched_idxs: (n,) for each image: from 1 on an object, 0 background, below 0 neither.
        """
        generators = image_generators(len(matched_idxs), matched_idxs[0].device)
        samples = [self._sample(*pair) for pair in zip(matched_idxs, generators, strict=True)]
        return [positives for positives, _ in samples], [negatives for _, negatives in samples]

    def _sample(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        positives = random_subset(
            torch.where(labels >= 1)[0], int(self.batch_size_per_image * self.positive_fraction), generator
        )
        negatives = random_subset(torch.where(labels == 0)[0], self.batch_size_per_image - len(positives), generator)
        return _mask(positives, labels), _mask(negatives, labels)


def image_generators(count: int, device: torch.device) -> list[torch.Generator]:
    """Random generators on ``device`` for the ``count`` images of this pass, the same number in every share.

    Every pass draws the seeds of all images of the total batch from torch's global CPU generator, which training seeds
    equally for all of them: the numbers of an image depend on its place in the total batch, not on its rank.
    """
    share, shares = share_of_total_batch()
    seeds = torch.randint(2**63 - 1, (shares, count), device="cpu")[share]
    return [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]


def random_subset(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of ``values`` (n,) in random order; all of them if there are fewer."""
    return values[torch.randperm(len(values), generator=generator, device=values.device)[:count]]


def _mask(indices: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.uint8)
    mask[indices] = 1
    return mask
