"""Evaluation of a detector on a COCO data set, image by image, in memory that masks do not fill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from afictl.data import CocoIndex, EvalBatch, eval_batches, read_image
from afictl.data.transforms import to_float
from afictl.detectors import iter_pasted_masks, to_original
from afictl.errors import UserError
from afictl.evaluation.classes import match_categories
from afictl.evaluation.metric import Evaluation, score_predictions
from afictl.evaluation.results import coco_results
from afictl.evaluation.tta import TestTimeAugmentation, detect_augmented, require_multi_scale

_Answer = tuple[dict[str, Tensor], Iterable[Tensor] | None]
"""Detection in original pixels, and its masks at the original size as chunks (n,H,W) of bool."""


def evaluate(
    detector: nn.Module,
    index: CocoIndex,
    *,
    limit: int | None = None,
    batch_size: int = 1,
    workers: int = 2,
    evaluator: str = "faster-coco-eval",
    device: torch.device | str | None = None,
    classes: Sequence[str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    tta: TestTimeAugmentation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Box and mask AP of a detector, with its predictions.

    Args:
        detector: one of ours, which sees images resized as its ``input`` says, or any module with
            torchvision's detection convention, which sees them in their original size.
        index: the data set; its annotation file is the ground truth, crowds included.
        limit: use only the first images.
        batch_size: images detected at once.
        workers: reading processes; 0 reads in this one.
        evaluator: ``"faster-coco-eval"`` or ``"pycocotools"``.
        device: where the detector is; None asks its parameters.
        classes: its class names in label order, matched to the data set's by name; None takes the order of
            the data set.
        autocast: makes the context in which the detector runs, e.g. ``fabric.autocast``.
        tta: look at each image in these views, which ``batch_size`` does not join with those of others.
        progress: called with the number of images done and of all images.

    Raises:
        UserError: the detector's classes are not those of the data set, or ``tta`` for a module that is no
            ``Detector``.
    """
    if tta is not None:
        require_multi_scale(detector)
    image_ids = index.image_ids[:limit]
    categories = _categories(detector, classes, index)
    device = _device_of(detector) if device is None else torch.device(device)
    predictions: list[dict[str, Any]] = []
    has_masks = False
    with (
        _in_eval_mode(detector),
        torch.no_grad(),
    ):  # not inference_mode: a cache filled here may serve training
        answers = _answers(detector, index, batch_size, workers, limit, device, autocast or nullcontext, tta)
        for done, (image_id, (detection, mask_chunks)) in enumerate(answers, start=1):
            has_masks = has_masks or mask_chunks is not None
            predictions += coco_results(detection, mask_chunks, image_id, categories)
            if progress is not None:
                progress(done, len(image_ids))
    return score_predictions(
        predictions, index.annotation_file, image_ids=image_ids, evaluator=evaluator, masks=has_masks
    )


def _categories(detector: nn.Module, classes: Sequence[str] | None, index: CocoIndex) -> tuple[int | None, ...]:
    known = getattr(detector, "num_classes", None)
    if classes is None and known not in (None, len(index.classes)):
        raise UserError(
            f"the detector has {known} classes, {index.annotation_file} has {len(index.classes)} categories; "
            "evaluate it on the data that it was trained for"
        )
    return match_categories(classes, index.classes, index.category_ids, source=str(index.annotation_file))


def _answers(
    detector: Any,
    index: CocoIndex,
    batch_size: int,
    workers: int,
    limit: int | None,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    tta: TestTimeAugmentation | None,
) -> Iterator[tuple[int, _Answer]]:
    """Image id and answer of each image."""
    if tta is not None:
        for batch in eval_batches(index, None, workers=workers, limit=limit):
            (image_id,), (image,), (size_hw,) = batch.image_ids, batch.images, batch.original_sizes
            with autocast():
                detection = detect_augmented(detector, image, tta)
            yield image_id, _our_answer(detector, detection, size_hw, size_hw)
        return
    if not hasattr(detector, "input"):
        for i, image_id in enumerate(index.image_ids[:limit]):
            image = to_float(read_image(index.image_path(i), index.size_hw(i))).to(device)
            with autocast():
                (detection,) = detector([image])
            yield image_id, _convention_answer(detection)
        return
    for batch in eval_batches(index, detector.input, batch_size, workers=workers, limit=limit):
        with autocast():
            detections = detector.detect([image.to(device) for image in batch.images])
        for image_id, *sizes, detection in _zipped(batch, detections):
            yield image_id, _our_answer(detector, detection, *sizes)


def _zipped(batch: EvalBatch, detections: list[dict[str, Tensor]]) -> Iterator[tuple[Any, ...]]:
    seen = [(image.shape[-2], image.shape[-1]) for image in batch.images]
    return zip(batch.image_ids, seen, batch.original_sizes, detections, strict=True)


def _our_answer(
    detector: Any, detection: dict[str, Tensor], seen_hw: tuple[int, int], original_hw: tuple[int, int]
) -> _Answer:
    detection = to_original(detection, seen_hw, original_hw)
    probabilities = detection.get("mask_probs")
    if probabilities is None:
        return detection, None
    return detection, iter_pasted_masks(probabilities.float(), detection["boxes"], original_hw, detector.paste_masks)


def _convention_answer(detection: dict[str, Tensor]) -> _Answer:
    masks = detection.get("masks")
    if masks is None:
        return detection, None
    # torchvision's (N,1,H,W) probabilities or our (N,H,W) bool, one mask at a time
    return detection, ((mask.reshape(1, *mask.shape[-2:]) > 0.5) for mask in masks)


def _device_of(detector: nn.Module) -> torch.device:
    tensor = next(chain(detector.parameters(), detector.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def _in_eval_mode(detector: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module is in the mode it was in, frozen parts included."""
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
