"""A process that loads images for training as one library does, with one worker, and tells how fast.

All resize the short side to one of detectron2's six sizes, 640 to 800, at most 1333 the long one, flip every other
image, and group what they read by four, shuffled. They differ in what they give: afictl floats 0..1 and bitmaps,
torchvision the same (the transforms of its detection reference, on tensors, which are its faster kind), detectron2
bytes and, as it is asked, bitmaps or its default, polygons. What the measured process itself does to a batch counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

_SIZES, _LONGEST, _BATCH = (640, 672, 704, 736, 768, 800), 1333, 4
_WARM_UP = 4
"""Batches before the clock starts: the worker's start and what it reads ahead."""


def loaders(masks: bool) -> list[str]:
    """The loaders that can be measured here."""
    others = ["detectron2 polygons", "detectron2 bitmaps"] if masks else ["detectron2"]
    return [*(others if find_spec("detectron2") else []), "torchvision", "afictl"]


def _afictl(folder: Path, split: str, masks: bool) -> Iterator[Any]:
    from afictl.data import load_coco, train_batches
    from afictl.presets import InputConfig

    config = InputConfig(min_sizes=_SIZES, max_size=_LONGEST)
    return train_batches(load_coco(folder, split), config, _BATCH, seed=0, masks=masks, workers=1)


def _torchvision(folder: Path, split: str, masks: bool) -> Iterator[Any]:
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    from afictl.data import load_coco
    from afictl.data.folders import find_files

    file, images = find_files(folder, split)
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomShortestSize(list(_SIZES), max_size=_LONGEST),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    keys = ["boxes", "labels", *(["masks"] if masks else [])]
    whole = wrap_dataset_for_transforms_v2(CocoDetection(images, file, transforms=steps), target_keys=keys)
    used = Subset(whole, _sorted_positions(whole, load_coco(folder, split), masks))
    while True:
        yield from DataLoader(used, _BATCH, shuffle=True, num_workers=1, collate_fn=_as_lists, drop_last=True)


def _sorted_positions(whole: Any, index: Any, masks: bool) -> list[int]:
    """Where torchvision, which sorts images by id, has those that training uses."""
    used = {index.image_id(i) for i in index.training_images(masks)}
    return [k for k, image_id in enumerate(whole.ids) if image_id in used]


def _as_lists(samples: list[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*samples, strict=True))


def _detectron2(folder: Path, split: str, masks: bool, mask_format: str = "polygon") -> Iterator[Any]:
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.data import transforms as T
    from detectron2.data.datasets.coco import load_coco_json

    from afictl.data.folders import find_files

    file, images = find_files(folder, split)
    records = [record for record in load_coco_json(str(file), str(images), "measured") if record["annotations"]]
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge(_SIZES, _LONGEST, "choice"), T.RandomFlip()],
        image_format="RGB",
        use_instance_mask=masks,
        instance_mask_format=mask_format,
    )
    return iter(build_detection_train_loader(records, mapper=mapper, total_batch_size=_BATCH, num_workers=1))


_LOADERS: dict[str, Callable[..., Iterator[Any]]] = {
    "afictl": _afictl,
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "detectron2 polygons": _detectron2,
    "detectron2 bitmaps": partial(_detectron2, mask_format="bitmask"),
}


def _main(library: str, folder: Path, split: str, masks: bool, images: int) -> None:
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        batches = _LOADERS[library](folder, split, masks)
        for _ in islice(batches, _WARM_UP):
            pass
        began = time.perf_counter()
        count = max(1, images // _BATCH)
        for _ in islice(batches, count):
            pass
        seconds = time.perf_counter() - began
    print(json.dumps({"images_per_second": count * _BATCH / seconds}), file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "masks", int(sys.argv[5]))
