"""Training on labelled and pseudo-labelled images together, both in every batch.

The detector computes the losses of each group in a separate pass, and they are averaged with weights 1 and W:
``(labelled + W * pseudo) / (1 + W)``, the normalised loss of "Rethinking Pre-training and Self-training" (Zoph et al.,
2020) without its running ratio of the two losses, which would be additional state. A learning rate or clipping
selected for labelled images therefore suits any W, and with W = 0 the weights are exactly those of training on the
labelled images alone. Each group is normalised by its own batch statistics and its own number of objects. Running
statistics include both groups: those of batch norm, and the mean number of positive anchors that RetinaNet divides its
losses by, so its steps differ slightly from those on labelled images alone even with W = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import Tensor, nn

from afictl.data import Dataset, TrainBatch
from afictl.presets import Preset
from afictl.training.seeds import Seeds
from afictl.training.splits import batch_source


@dataclass(frozen=True)
class MixedData:
    """Labelled and pseudo-labelled images, and their numbers in a batch."""

    labelled: Dataset
    pseudo: Dataset
    num_labelled: int
    num_pseudo: int
    weight: float
    masks: bool

    @property
    def description(self) -> str:
        """A log line."""
        return (
            f"{len(self.pseudo)} pseudo-labelled images of weight {self.weight:g}; "
            f"a batch holds {self.num_labelled} labelled and {self.num_pseudo} pseudo-labelled"
        )

    def shares(self, number: int) -> tuple[int, int]:
        """Labelled and pseudo-labelled images of each of ``number`` equal shares of a batch."""
        return self.num_labelled // number, self.num_pseudo // number

    def training_module(self, fabric: Fabric, detector: nn.Module, micro_batches: int = 1) -> MixedLosses:
        """The module to train on the batches of this rank, or on its ``micro_batches``."""
        return MixedLosses(detector, self.shares(fabric.world_size * micro_batches)[0], self.weight)

    def batches(self, fabric: Fabric, preset: Preset, seeds: Seeds) -> Callable[[int], Iterator[TrainBatch]]:
        """Function that returns the endless batches of this rank from a given step on, labelled images first.

        Each group has separate seeded permutations: batch s is a function of seeds and s alone.
        """
        labelled_workers, pseudo_workers = _split_workers(preset.loader.workers, self.num_labelled, self.num_pseudo)

        def source(
            dataset: Dataset, batch_size: int, workers: int, seeds: Seeds
        ) -> Callable[[int], Iterator[TrainBatch]]:
            recipe = preset.train.model_copy(update={"batch_size": batch_size})
            loader = preset.loader.model_copy(update={"workers": workers})
            return batch_source(
                fabric,
                dataset,
                preset.input,
                recipe,
                loader,
                seeds.order,
                augmentation_seed=seeds.augmentation,
                masks=self.masks,
            )

        labelled = source(self.labelled, self.num_labelled, labelled_workers, seeds)
        pseudo = source(self.pseudo, self.num_pseudo, pseudo_workers, seeds.second())
        return lambda start: map(_concatenate, labelled(start), pseudo(start))


class MixedLosses(nn.Module):
    """Losses of a detector on two groups of images, computed in one forward so that DDP reduces gradients once.

    Args:
        detector: in torchvision's convention.
        num_labelled: labelled images of ``forward``; they come first.
        weight: of the losses of the other images.
    """

    def __init__(self, detector: nn.Module, num_labelled: int, weight: float) -> None:
        super().__init__()
        self.detector = detector
        self.num_labelled = num_labelled
        self.weight = weight

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The terms of the total loss, those of pseudo-labelled images as ``loss_pseudo_...``."""
        k, total = self.num_labelled, 1 + self.weight
        labelled = self.detector(images[:k], targets[:k])
        pseudo = self.detector(images[k:], targets[k:])
        return {
            **{name: loss / total for name, loss in labelled.items()},
            **{f"loss_pseudo_{n.removeprefix('loss_')}": loss * self.weight / total for n, loss in pseudo.items()},
        }


def _split_workers(workers: int, num_labelled: int, num_pseudo: int) -> tuple[int, int]:
    """Loader processes of each group in proportion to its images: at least one, or none at all."""
    if workers == 0:
        return 0, 0
    pseudo = max(1, round(workers * num_pseudo / (num_labelled + num_pseudo)))
    return max(1, workers - pseudo), pseudo


def _concatenate(first: TrainBatch, second: TrainBatch) -> TrainBatch:
    return TrainBatch(
        images=first.images + second.images,
        targets=first.targets + second.targets,
        half_images=None,
        half_targets=None,
        image_ids=first.image_ids + second.image_ids,
    )
