"""Training and held-out images of a data set, and the batches of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lightning_fabric import Fabric

from afictl.data import Dataset, TrainBatch, load_coco, train_batches
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.presets import InputConfig, LoaderConfig, Preset, Recipe

Splits = tuple[Dataset, Dataset]
"""Images to train on, held-out images."""


def batch_source(
    fabric: Fabric,
    index: Dataset,
    view: InputConfig,
    recipe: Recipe,
    loader: LoaderConfig,
    seed: int,
    *,
    half_view: bool = False,
    masks: bool = False,
) -> Callable[[int], Iterator[TrainBatch]]:
    """This rank's endless batches from a given step on."""

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
            device=fabric.device,
            half_view=half_view,
            masks=masks,
        )

    return batches


def load_splits(folder: Path) -> Splits:
    """The train and val splits of a data set.

    Raises:
        UserError: a split that cannot be read, or whose categories have other names.
    """
    train, held_out = load_coco(folder, "train"), load_coco(folder, "val")
    match_categories(train.classes, held_out, owner=str(train.annotation_file))
    return train, held_out


def in_label_order(data: Splits, classes: Sequence[str], source: str) -> Splits:
    """The splits with training labels as a detector of ``classes`` numbers them.

    Raises:
        UserError: the data have other classes than the detector of ``source``; placeholders of it do not count.
    """
    train, held_out = data
    match_categories(classes, train, owner=source)
    return train.in_label_order(classes), held_out


def uses_masks(preset: Preset, data: Splits) -> bool:
    """Whether the preset's detector trains on masks.

    Raises:
        UserError: it does and a split has none.
    """
    if not preset.detector.masks:
        return False
    simpler = preset.detector.without_masks
    hint = f"; without masks the same detector is --set detector.kind={simpler}" if simpler else ""
    for index in data:
        if not index.has_masks:
            raise UserError(
                f"{index.annotation_file}: no annotation has a 'segmentation', which {preset.name} trains on{hint}"
            )
    return True
