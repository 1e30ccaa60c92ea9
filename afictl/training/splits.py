"""Training and held-out images of a dataset, and the batches of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from afictl.data import Dataset, TrainBatch, load_dataset, train_batches
from afictl.data.image_listing import require_images
from afictl.data.plausibility import require_plausible
from afictl.distributed import all_gather
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.presets import InputConfig, LoaderConfig, Preset, Recipe


class Splits(NamedTuple):
    """Training and held-out images."""

    train: Dataset
    held_out: Dataset


def load_splits(folder: Path) -> Splits:
    """Load the train and val splits of a dataset.

    Raises:
        UserError: a split cannot be read or has boxes of another format, or the two have categories of different names.
    """
    train, held_out = load_dataset(folder, "train"), load_dataset(folder, "val")
    match_categories(train.classes, held_out, owner=str(train.annotation_file))
    for split in (train, held_out):
        require_plausible(split, masks=False)
    return Splits(train, held_out)


def require_split_images(fabric: Fabric, data: Splits, masks: bool) -> None:
    """Check the image files of both splits on every machine, before the first step; all ranks must call this.

    Raises:
        UserError: on all ranks: files that training or evaluation will read are missing or cannot be images.
    """

    def check() -> None:
        if fabric.local_rank == 0:
            require_images(data.train, data.train.training_images(masks))
            require_images(data.held_out)

    all_gather(check, fabric.world_size)


def in_label_order(data: Splits, classes: Sequence[str], source: str) -> Splits:
    """The splits with training labels 1..K in the order of ``classes``.

    Args:
        data: the splits.
        classes: class names of a detector, perhaps with placeholders.
        source: of ``classes``, named in the error.

    Raises:
        UserError: the dataset has other classes.
    """
    match_categories(classes, data.train, owner=source)
    return data._replace(train=data.train.in_label_order(classes))


def uses_masks(preset: Preset, data: Splits) -> bool:
    """Whether the preset's detector trains on masks.

    Raises:
        UserError: it does, and a split has no masks, or has masks that do not belong to their boxes.
    """
    if not preset.detector.masks:
        return False
    kind = preset.detector.without_masks
    hint = f"; without masks the same detector is --set detector.kind={kind}" if kind else ""
    for split in data:
        require_plausible(split, masks=True)
        if not split.has_masks:
            raise UserError(
                f"{split.annotation_file}: no annotation has a 'segmentation', which {preset.name} trains on{hint}"
            )
    return True


def batch_source(
    fabric: Fabric,
    dataset: Dataset,
    config: InputConfig,
    recipe: Recipe,
    loader: LoaderConfig,
    seed: int,
    *,
    augmentation_seed: int | None = None,
    half_view: bool = False,
    masks: bool = False,
) -> Callable[[int], Iterator[TrainBatch]]:
    """Function that returns the endless batches of this rank from a given step on; see ``train_batches``."""

    def batches(start: int) -> Iterator[TrainBatch]:
        return train_batches(
            dataset,
            config,
            recipe.batch_size,
            seed=seed,
            augmentation_seed=augmentation_seed,
            start_step=start,
            workers=loader.workers,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            device=fabric.device,
            half_view=half_view,
            masks=masks,
        )

    return batches
