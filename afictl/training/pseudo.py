"""Training on labelled and pseudo-labelled images together, both in every batch.

The two groups go through the detector one after the other, and their losses are averaged with weights 1 and W:
``(labelled + W * pseudo) / (1 + W)``, the normalised loss of "Rethinking Pre-training and Self-training" (Zoph et al.,
2020) without its running ratio of the two losses, which would be a state of its own. So a learning rate or clipping
chosen for labelled images keeps its meaning at any W, and with W = 0 the weights are exactly those of training on the
labelled images alone. Each group is normalised by its own batch statistics and its own number of objects, as in
training on it alone. Running statistics see both: those of batch norm, and the mean number of positive anchors that
RetinaNet divides its losses by, so that its steps are not quite those of labelled images alone even with W = 0.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from lightning_fabric import Fabric
from torch import Tensor, nn

from afictl.data import Dataset, TrainBatch
from afictl.data.folders import absent_files
from afictl.data.formats.coco import load_coco_file
from afictl.data.formats.coco_records import read_json
from afictl.data.sampler import second_seed
from afictl.detectors import Detector
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.presets import Preset
from afictl.run_folder import absolute_path
from afictl.training.splits import batch_source

_ROUNDING = 0.02  # of a ratio that was written with few digits


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labelled images to train on beside the labelled ones.

    ``weight`` is W, the weight of their losses beside the labelled images' 1; ``ratio`` how many of them stand in each
    batch for one labelled image.
    """

    file: Path
    weight: float = 1.0
    ratio: float = 1.0

    def describe(self) -> dict[str, Any]:
        """What a run records of them."""
        return {"file": absolute_path(self.file), "weight": self.weight, "ratio": self.ratio}

    def shares(self, batch_size: int, processes: int = 1) -> tuple[int, int]:
        """How many images of a batch are labelled, and how many pseudo-labelled.

        Raises:
            UserError: no whole numbers have this ratio, and names those next to it; or ``processes`` cannot share
                each of them evenly.
        """
        labelled, pseudo = shares = self._split(batch_size)
        common = math.gcd(*shares)
        if common % processes:
            needed = batch_size * processes // math.gcd(common, processes)
            raise UserError(
                f"a batch of {batch_size} is split into {labelled} labelled and {pseudo} pseudo-labelled images, and "
                f"{processes} devices must share each of the two evenly; --set train.batch_size={needed} would do"
            )
        return shares

    def _split(self, batch_size: int) -> tuple[int, int]:
        splits = [(labelled, batch_size - labelled) for labelled in range(1, batch_size)]
        nearest = sorted(splits, key=lambda split: abs(split[1] / split[0] - self.ratio))[:2]
        if nearest and abs(nearest[0][1] / nearest[0][0] - self.ratio) <= _ROUNDING * self.ratio:
            return nearest[0]
        possible = " or ".join(f"{second / first:.3g} ({first} labelled + {second})" for first, second in nearest)
        advice = f"choose {possible}, or another train.batch_size" if splits else "it takes two at least"
        raise UserError(f"--pseudo-ratio {self.ratio:g}: a batch of {batch_size} cannot be shared so; {advice}")

    def load(self, labelled: Dataset, preset: Preset, masks: bool, processes: int = 1) -> Mixture:
        """The images beside those of ``labelled``, with labels as that numbers them.

        Raises:
            UserError: a file that cannot be read, other classes, no labels, no masks where they are needed, no image
                folder, an image that is not there, or a ratio that a batch cannot have, or not with these processes.
        """
        index = load_coco_file(self.file, Path())
        index = replace(index, image_dir=_image_folder(self.file))
        match_categories(labelled.classes, index, owner=str(labelled.annotation_file))
        if not index.training_images():
            raise UserError(
                f"{self.file}: holds no label to train on; make it with a lower --threshold or of more images"
            )
        if masks and not index.has_masks:
            raise UserError(
                f"{self.file}: no pseudo label has a mask, which {preset.name} trains on; "
                "make them with a teacher that has masks"
            )
        shares = self.shares(preset.train.batch_size, processes)
        _require_images(index, masks)
        return Mixture((labelled, index.in_label_order(labelled.classes)), shares, self.weight, masks)


@dataclass(frozen=True)
class Mixture:
    """Labelled and pseudo-labelled images, and how they are trained on together."""

    parts: tuple[Dataset, Dataset]
    """Labelled, pseudo-labelled."""
    shares: tuple[int, int]
    """How many of each are in a batch."""
    weight: float
    masks: bool

    def describe(self) -> str:
        """A line for the log."""
        first, second = self.shares
        return (
            f"{len(self.parts[1])} pseudo-labelled images of weight {self.weight:g}; "
            f"a batch holds {first} labelled and {second} pseudo-labelled"
        )

    def module(self, fabric: Fabric, detector: Detector) -> Mixed:
        """``detector`` as the thing trained on this rank's share of each batch."""
        return Mixed(detector, self.shares[0] // fabric.world_size, self.weight)

    def batches(self, fabric: Fabric, preset: Preset, seed: int) -> Callable[[int], Iterator[TrainBatch]]:
        """This rank's endless batches from a given step on: its share of the labelled images, then of the others.

        Both are epochs of seeded permutations of their own, so that batch s is a function of seed and s alone.
        """
        sources = [
            batch_source(
                fabric,
                index,
                preset.input,
                preset.train.model_copy(update={"batch_size": share}),
                preset.loader.model_copy(update={"workers": workers}),
                own_seed,
                masks=self.masks,
            )
            for index, share, workers, own_seed in zip(
                self.parts,
                self.shares,
                _divided(preset.loader.workers, *self.shares),
                (seed, second_seed(seed)),
                strict=True,
            )
        ]
        return lambda start: map(_joined, *(source(start) for source in sources))


class _Head(msgspec.Struct):
    """The one part of a pseudo-label file that other readers of COCO files have no use for."""

    info: dict[str, Any] = {}


def _image_folder(file: Path) -> Path:
    """Where the images of a pseudo-label file are: as recorded, or in the same place beside a file that was moved."""
    info = _info(file)
    recorded, beside = (info.get(key) for key in ("image_folder", "image_folder_from_here"))
    if not isinstance(recorded, str):
        raise UserError(f"{file}: key 'info.image_folder' is missing; add the folder that its file_names start from")
    folders = [Path(recorded), *([file.parent / beside] if isinstance(beside, str) else [])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"{file}: its image folder {recorded} does not exist; mend 'info.image_folder' in the file")


def _require_images(index: Dataset, masks: bool) -> None:
    """Look for the images that will be drawn, of which a missing one would end the training when its turn comes."""
    names = index.file_names
    drawn = [names[k] for k in index.training_images(masks)]
    if absent := absent_files(index.image_dir, drawn):
        raise UserError(
            f"{index.annotation_file}: {len(absent)} of its {len(drawn)} labelled images cannot be found in "
            f"{index.image_dir}, the first {absent[0]}; bring them back, or mend 'info.image_folder' in the file"
        )


def _info(file: Path) -> dict[str, Any]:
    """The ``info`` of a COCO file that has been found readable, without its other contents in memory."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return msgspec.json.decode(content, type=_Head).info
    except msgspec.DecodeError:  # NaN among its numbers, or an ``info`` that is no mapping
        info = read_json(file, "annotation file").get("info")
        return info if isinstance(info, dict) else {}


class Mixed(nn.Module):
    """A detector that trains on two groups of images in one forward pass, so that gradients are shared once.

    Args:
        detector: in torchvision's convention.
        labelled: how many of the images that ``forward`` gets are labelled; they come first.
        weight: of the losses of the others.
    """

    def __init__(self, detector: nn.Module, labelled: int, weight: float) -> None:
        super().__init__()
        self.detector = detector
        self.labelled = labelled
        self.weight = weight

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of both groups as they enter the sum, those of the second as ``loss_pseudo_...``."""
        k, total = self.labelled, 1 + self.weight
        labelled = self.detector(images[:k], targets[:k])
        pseudo = self.detector(images[k:], targets[k:])
        return {
            **{name: loss / total for name, loss in labelled.items()},
            **{f"loss_pseudo_{n.removeprefix('loss_')}": loss * self.weight / total for n, loss in pseudo.items()},
        }


def _divided(workers: int, labelled: int, pseudo: int) -> tuple[int, int]:
    """Reading processes for each group, as the images are divided; one at least, unless there are none at all."""
    if workers == 0:
        return 0, 0
    second = max(1, round(workers * pseudo / (labelled + pseudo)))
    return max(1, workers - second), second


def _joined(first: TrainBatch, second: TrainBatch) -> TrainBatch:
    return TrainBatch(
        images=first.images + second.images,
        targets=first.targets + second.targets,
        half_images=None,
        half_targets=None,
        image_ids=first.image_ids + second.image_ids,
    )
