"""Pseudo-labelled images of ``afictl pseudo-label``, to train on beside labelled ones."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from afictl.data import Dataset
from afictl.data.formats.coco import load_coco_file
from afictl.data.image_listing import require_images
from afictl.data.plausibility import require_plausible
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.json_files import read_json
from afictl.presets import Preset
from afictl.run_folder import absolute_path
from afictl.training.mixed_data import MixedData

_RATIO_TOLERANCE = 0.02  # relative; the ratio may be written with few digits


@dataclass(frozen=True)
class PseudoLabels:
    """A file of pseudo-labelled images to train on beside the labelled ones."""

    file: Path
    weight: float = 1.0
    """W, the weight of their losses beside the labelled images' 1."""
    ratio: float = 1.0
    """Pseudo-labelled images of a batch for each labelled one."""

    def as_config(self) -> dict[str, str | float]:
        """The settings as ``config.yaml`` records them."""
        return {"file": absolute_path(self.file), "weight": self.weight, "ratio": self.ratio}

    def split_batch(self, batch_size: int, num_processes: int = 1, micro_batches: int = 1) -> tuple[int, int]:
        """Number of labelled and of pseudo-labelled images in a batch.

        Raises:
            UserError: no whole numbers have this ratio, or the processes, each with ``micro_batches``, cannot share
                both numbers evenly.
        """
        labelled, pseudo = self._nearest_split(batch_size)
        common, shares = math.gcd(labelled, pseudo), num_processes * micro_batches
        if common % shares:
            required = batch_size * shares // math.gcd(common, shares)
            owners = f"{num_processes} devices" + (f" x {micro_batches} micro-batches" if micro_batches > 1 else "")
            raise UserError(
                f"a batch of {batch_size} is split into {labelled} labelled and {pseudo} pseudo-labelled images, and "
                f"{owners} must share each of the two evenly; --set train.batch_size={required} would do"
            )
        return labelled, pseudo

    def _nearest_split(self, batch_size: int) -> tuple[int, int]:
        splits = [(labelled, batch_size - labelled) for labelled in range(1, batch_size)]
        nearest = sorted(splits, key=lambda split: abs(split[1] / split[0] - self.ratio))[:2]
        if nearest and abs(nearest[0][1] / nearest[0][0] - self.ratio) <= _RATIO_TOLERANCE * self.ratio:
            return nearest[0]
        ratios = " or ".join(
            f"{pseudo / labelled:.3g} ({labelled} labelled + {pseudo})" for labelled, pseudo in nearest
        )
        hint = f"choose {ratios}, or another train.batch_size" if splits else "it needs at least 2 images"
        raise UserError(f"--pseudo-ratio {self.ratio:g}: a batch of {batch_size} cannot be split so; {hint}")

    def load(self, labelled: Dataset, preset: Preset, masks: bool, num_processes: int = 1) -> MixedData:
        """Load the images, with labels in the order of ``labelled.classes``.

        Raises:
            UserError: the file cannot be read, has other classes, implausible boxes, no labels or no required masks, an
                image or the image folder is absent, or a batch cannot have the ratio.
        """
        pseudo = replace(load_coco_file(self.file, Path()), image_dir=_image_folder(self.file))
        match_categories(labelled.classes, pseudo, owner=str(labelled.annotation_file))
        if not pseudo.training_images():
            raise UserError(
                f"{self.file}: holds no label to train on; make it with a lower --threshold or of more images"
            )
        require_plausible(pseudo, masks)
        if masks and not pseudo.has_masks:
            raise UserError(
                f"{self.file}: no pseudo label has a mask, which {preset.name} trains on; "
                "make them with a teacher that has masks"
            )
        split = self.split_batch(preset.train.batch_size, num_processes, preset.train.accumulate)
        advice = "restore them, or correct 'info.image_folder' in the file"
        require_images(pseudo, pseudo.training_images(masks), advice=advice)
        return MixedData(labelled, pseudo.in_label_order(labelled.classes), *split, self.weight, masks)


class _InfoSection(msgspec.Struct):
    """The ``info`` of a COCO file; msgspec skips the other sections."""

    info: dict[str, object] = {}


def _read_info(file: Path) -> dict[str, object]:
    """The ``info`` of a COCO file that was read before, without its other sections in memory."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return msgspec.json.decode(content, type=_InfoSection).info
    except (ValueError, RecursionError):  # NaN among its numbers, another encoding, or an ``info`` that is no mapping
        info = read_json(file, "annotation file", unique_keys=False).get("info")
        return info if isinstance(info, dict) else {}


def _image_folder(file: Path) -> Path:
    """The image folder that a pseudo-label file records, which may be relative to the file.

    Earlier versions recorded an absolute path, and a relative one for a file that was moved with its images.
    """
    info = _read_info(file)
    folder, relative = info.get("image_folder"), info.get("image_folder_from_here")
    if not isinstance(folder, str):
        raise UserError(f"{file}: key 'info.image_folder' is missing; add the folder that its file_names start from")
    folders = [file.parent / folder, *([file.parent / relative] if isinstance(relative, str) else [])]
    for path in folders:
        if path.is_dir():
            return path
    raise UserError(f"{file}: its image folder {folders[0]} does not exist; correct 'info.image_folder' in the file")
