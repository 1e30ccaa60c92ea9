"""Process that loads training images with one library and one worker, and prints images per second as JSON.

All libraries resize the short side to one of detectron2's six sizes, 640 to 800, with at most 1333 for the long side,
flip images at random, shuffle, and use a batch size of four. Batches are float images in 0..1 and bitmaps for afictl
and torchvision (the transforms of its detection reference on tensors, the faster variant), and uint8 images with
bitmaps or polygons, the default, for detectron2. The time of the main process is included.
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

_SIZES, _MAX_SIZE, _BATCH_SIZE = (640, 672, 704, 736, 768, 800), 1333, 4
_WARM_UP_BATCHES = 4
"""Batches before the timer starts, for the start of the worker and its prefetching."""


def loaders(masks: bool) -> list[str]:
    """Names of the loaders of the installed libraries."""
    detectron2 = ["detectron2 polygons", "detectron2 bitmaps"] if masks else ["detectron2"]
    return [*(detectron2 if find_spec("detectron2") else []), "torchvision", "afictl"]


def _afictl(folder: Path, split: str, masks: bool) -> Iterator[object]:
    from afictl.data import load_dataset, train_batches
    from afictl.presets import InputConfig

    config = InputConfig(min_sizes=_SIZES, max_size=_MAX_SIZE)
    return train_batches(load_dataset(folder, split), config, _BATCH_SIZE, seed=0, masks=masks, workers=1)


def _torchvision(folder: Path, split: str, masks: bool) -> Iterator[object]:
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    from afictl.data import load_dataset
    from afictl.data.layouts import find_split

    files = find_split(folder, split)
    file, images = files.annotation_file, files.image_dir
    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomShortestSize(list(_SIZES), max_size=_MAX_SIZE),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    keys = ["boxes", "labels", *(["masks"] if masks else [])]
    dataset = wrap_dataset_for_transforms_v2(CocoDetection(images, file, transforms=transforms), target_keys=keys)
    index = load_dataset(folder, split)
    training = {index.image_id(i) for i in index.training_images(masks)}
    subset = Subset(dataset, [k for k, image_id in enumerate(dataset.ids) if image_id in training])
    while True:
        yield from DataLoader(subset, _BATCH_SIZE, shuffle=True, num_workers=1, collate_fn=_collate, drop_last=True)


def _collate(samples: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return list(zip(*samples, strict=True))


def _detectron2(folder: Path, split: str, masks: bool, mask_format: str = "polygon") -> Iterator[object]:
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.data import transforms as T
    from detectron2.data.datasets.coco import load_coco_json

    from afictl.data.layouts import find_split

    files = find_split(folder, split)
    file, images = files.annotation_file, files.image_dir
    records = [record for record in load_coco_json(str(file), str(images), "measured") if record["annotations"]]
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge(_SIZES, _MAX_SIZE, "choice"), T.RandomFlip()],
        image_format="RGB",
        use_instance_mask=masks,
        instance_mask_format=mask_format,
    )
    return iter(build_detection_train_loader(records, mapper=mapper, total_batch_size=_BATCH_SIZE, num_workers=1))


_LOADERS: dict[str, Callable[..., Iterator[object]]] = {
    "afictl": _afictl,
    "torchvision": _torchvision,
    "detectron2": _detectron2,
    "detectron2 polygons": _detectron2,
    "detectron2 bitmaps": partial(_detectron2, mask_format="bitmask"),
}


def _main(library: str, folder: Path, split: str, masks: bool, images: int) -> None:
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        batches = _LOADERS[library](folder, split, masks)
        for _ in islice(batches, _WARM_UP_BATCHES):
            pass
        start = time.perf_counter()
        count = max(1, images // _BATCH_SIZE)
        for _ in islice(batches, count):
            pass
        seconds = time.perf_counter() - start
    print(json.dumps({"images_per_second": count * _BATCH_SIZE / seconds}), file=output, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "masks", int(sys.argv[5]))
