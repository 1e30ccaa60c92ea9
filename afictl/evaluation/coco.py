"""Detection on a COCO data set, image by image, in memory that neither images nor masks fill, and its metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from afictl.data import CocoIndex
from afictl.distributed import all_gather, run_on_rank_zero
from afictl.errors import UserError
from afictl.evaluation.answers import answers
from afictl.evaluation.classes import match_categories
from afictl.evaluation.metric import Evaluation, score_predictions
from afictl.evaluation.results import coco_results
from afictl.evaluation.results_file import encode, write_results
from afictl.evaluation.tta import TestTimeAugmentation, require_multi_scale
from afictl.progress import ProgressCallback
from afictl.run_folder import PREDICTIONS


def evaluate(
    detector: nn.Module,
    index: CocoIndex,
    *,
    predictions: Path | None = None,
    evaluator: str = "hotcoco",
    limit: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> Evaluation:
    """Box and mask AP of a detector.

    With several processes each detects on its share of the images, and all of them learn the metrics.

    Args:
        detector: see ``detect``, like all that is not named here.
        index: the data set; its annotation file is the ground truth, crowds included.
        predictions: where to keep the COCO results; None keeps none.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference.
        limit: use only the first images.
        rank: of this process.
        world_size: number of processes.
        options: of ``detect``.

    Raises:
        UserError: see ``detect``.
    """
    with tempfile.TemporaryDirectory() if predictions is None else nullcontext() as folder:
        path = Path(folder) / PREDICTIONS if folder else Path(predictions or "")
        masks = detect(detector, index, path, limit=limit, rank=rank, world_size=world_size, **options)

        def score() -> Evaluation:
            ids = index.image_ids[:limit]
            return score_predictions(path, index.annotation_file, image_ids=ids, evaluator=evaluator, masks=masks)

        return run_on_rank_zero(score, rank, world_size)


def detect(
    detector: nn.Module,
    index: CocoIndex,
    predictions: Path,
    *,
    limit: int | None = None,
    batch_size: int = 1,
    workers: int = 2,
    device: torch.device | str | None = None,
    classes: Sequence[str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    tta: TestTimeAugmentation | None = None,
    progress: ProgressCallback | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> bool:
    """Write what a detector finds to a file of COCO results; returns whether it answers with masks.

    The file has category ids of the data set, ``bbox`` as xywh in pixels of the original image and masks as compressed
    run lengths. Masks of a detector that scores them apart from the boxes have a ``mask_score``. The file takes its
    place when all is found; until then, and after a failure, that of before stays.

    Args:
        detector: one of ours, which sees images resized as its ``input`` says, or any module with
            torchvision's detection convention, which sees them in their original size.
        index: the data set.
        predictions: the file; that of rank 0 counts.
        limit: use only the first images.
        batch_size: images detected at once.
        workers: reading processes; 0 reads in this one.
        device: where the detector is; None asks its parameters.
        classes: its class names in label order, matched to the data set's by name; None takes the order of
            the data set.
        autocast: makes the context in which the detector runs, e.g. ``fabric.autocast``.
        tta: look at each image in these views, which ``batch_size`` does not join with those of others.
        progress: called on rank 0 with the number of images done and of all images.
        rank: of this process, which sees every ``world_size``-th batch.
        world_size: number of processes; all of them must call this.

    Raises:
        UserError: the detector's classes are not those of the data set, ``tta`` for a module that is no ``Detector``,
            or an image that cannot be read; on all ranks.
    """
    if tta is not None:
        require_multi_scale(detector)
    categories = _categories(detector, classes, index)
    device = _device_of(detector) if device is None else torch.device(device)
    numbers, total = count(1), len(index.image_ids[:limit])
    has_masks = False

    def found() -> Iterator[bytes]:
        nonlocal has_masks
        found_in = answers(
            detector,
            index,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            device=device,
            autocast=autocast or nullcontext,
            tta=tta,
            rank=rank,
            world_size=world_size,
        )
        for image_id, (detection, mask_chunks) in found_in:
            has_masks = has_masks or mask_chunks is not None
            yield encode(coco_results(detection, mask_chunks, image_id, categories))

    def done() -> None:
        if progress is not None:
            progress(next(numbers), total)

    # not inference_mode: a cache filled here may serve training
    with _in_eval_mode(detector), torch.no_grad():
        write_results(predictions, found(), rank=rank, world_size=world_size, progress=done)
    return any(all_gather(lambda: has_masks, world_size))


def _categories(detector: nn.Module, classes: Sequence[str] | None, index: CocoIndex) -> tuple[int | None, ...]:
    known = getattr(detector, "num_classes", None)
    if classes is None and known not in (None, len(index.classes)):
        raise UserError(
            f"the detector has {known} classes, {index.annotation_file} has {len(index.classes)} categories; "
            "evaluate it on the data that it was trained for"
        )
    return match_categories(classes, index.classes, index.category_ids, source=str(index.annotation_file))


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
