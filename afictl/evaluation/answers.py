"""What detectors of every kind answer to the images of a data set, in original pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from afictl.data import Dataset, EvalBatch, eval_batches, read_image
from afictl.data.transforms import to_float
from afictl.detectors import iter_pasted_masks, to_original
from afictl.distributed import Runtime
from afictl.evaluation.tta import TestTimeAugmentation, detect_augmented

Answer = tuple[dict[str, Tensor], Iterable[Tensor] | None]
"""Detection in original pixels, and its masks at the original size as chunks (n,H,W) of bool."""


def answers(
    detector: Any,
    index: Dataset,
    runtime: Runtime,
    *,
    limit: int | None,
    batch_size: int,
    tta: TestTimeAugmentation | None,
) -> Iterator[tuple[int, Answer]]:
    """Image id and answer of each image of this rank; the arguments are those of ``detect``."""
    loading = partial(
        eval_batches, index, workers=runtime.workers, limit=limit, rank=runtime.rank, world_size=runtime.world_size
    )
    if tta is not None:
        for batch in loading(None):
            (image_id,), (image,), (size_hw,) = batch.image_ids, batch.images, batch.original_sizes
            with runtime.autocast():
                detection = detect_augmented(detector, image, tta)
            yield image_id, _our_answer(detector, detection, size_hw, size_hw)
    elif not hasattr(detector, "input"):
        for i, image_id in list(enumerate(index.image_ids[:limit]))[runtime.rank :: runtime.world_size]:
            image = to_float(read_image(index.image_path(i), index.size_hw(i))).to(runtime.device)
            with runtime.autocast():
                (detection,) = detector([image])
            yield image_id, _convention_answer(detection)
    else:
        for batch in loading(detector.input, batch_size):
            with runtime.autocast():
                detections = detector.detect([image.to(runtime.device) for image in batch.images])
            for image_id, *sizes, detection in _zipped(batch, detections):
                yield image_id, _our_answer(detector, detection, *sizes)


def _zipped(batch: EvalBatch, detections: list[dict[str, Tensor]]) -> Iterator[tuple[Any, ...]]:
    seen = [(image.shape[-2], image.shape[-1]) for image in batch.images]
    return zip(batch.image_ids, seen, batch.original_sizes, detections, strict=True)


def _our_answer(
    detector: Any, detection: dict[str, Tensor], seen_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Answer:
    detection = to_original(detection, seen_hw, original_hw)
    probabilities = detection.get("mask_probs")
    if probabilities is None:
        return detection, None
    return detection, iter_pasted_masks(probabilities.float(), detection["boxes"], original_hw, detector.paste_masks)


def _convention_answer(detection: dict[str, Tensor]) -> Answer:
    masks = detection.get("masks")
    if masks is None:
        return detection, None
    # torchvision's (N,1,H,W) probabilities or our (N,H,W) bool, one mask at a time
    return detection, ((mask.reshape(1, *mask.shape[-2:]) > 0.5) for mask in masks)
