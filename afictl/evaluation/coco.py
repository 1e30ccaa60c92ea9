"""Detection on a COCO data set, image by image, in memory that neither images nor masks fill, and its metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path

import torch
from torch import nn

from afictl.data import Dataset
from afictl.distributed import Runtime, all_gather, run_on_rank_zero
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
    index: Dataset,
    runtime: Runtime,
    *,
    predictions: Path | None = None,
    evaluator: str = "hotcoco",
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    tta: TestTimeAugmentation | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Box and mask AP of a detector, returned on every rank.

    Args:
        detector: as in ``detect``, like all arguments that are not described here.
        index: the data set; its annotation file is the ground truth, crowds included.
        predictions: COCO results file to write; None writes to a temporary folder.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference.

    Raises:
        UserError: as ``detect``.
    """
    with tempfile.TemporaryDirectory() if predictions is None else nullcontext() as folder:
        path = Path(folder) / PREDICTIONS if folder else Path(predictions or "")
        masks = detect(
            detector,
            index,
            path,
            runtime,
            classes=classes,
            limit=limit,
            batch_size=batch_size,
            tta=tta,
            progress=progress,
        )

        def score() -> Evaluation:
            ids = index.image_ids[:limit]
            return score_predictions(path, index.annotation_file, image_ids=ids, evaluator=evaluator, masks=masks)

        return run_on_rank_zero(score, runtime.rank, runtime.world_size)


def detect(
    detector: nn.Module,
    index: Dataset,
    predictions: Path,
    runtime: Runtime,
    *,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    tta: TestTimeAugmentation | None = None,
    progress: ProgressCallback | None = None,
) -> bool:
    """Write the detections of a detector to a file of COCO results; return whether they have masks.

    The file has category ids of the data set, ``bbox`` as xywh in pixels of the original image and masks as compressed
    run lengths. A detector that scores masks apart from boxes adds ``mask_score``. The file replaces an earlier one
    once it is complete; a failure leaves the earlier one.

    Args:
        detector: a ``Detector``, which gets images resized as its ``input`` config says, or any module with
            torchvision's detection convention, which gets them in their original size. On ``runtime.device``.
        index: the data set.
        predictions: the file; written by rank 0 alone.
        runtime: each rank detects on every ``world_size``-th batch; all ranks must call this.
        classes: the detector's class names in label order, matched to the data set's by name; None takes the order
            of the data set.
        limit: use only the first images.
        batch_size: images detected at once.
        tta: views of each image; with them one image is detected at a time.
        progress: called on rank 0 with the number of images done and of all images.

    Raises:
        UserError: the detector's classes are not those of the data set, ``tta`` for a module that is no ``Detector``,
            or an image that cannot be read; on all ranks.
    """
    if tta is not None:
        require_multi_scale(detector)
    categories = _categories(detector, classes, index)
    numbers, total = count(1), len(index.image_ids[:limit])
    has_masks = False

    def encoded_results() -> Iterator[bytes]:
        nonlocal has_masks
        detections = answers(detector, index, runtime, limit=limit, batch_size=batch_size, tta=tta)
        for image_id, (detection, mask_chunks) in detections:
            has_masks = has_masks or mask_chunks is not None
            yield encode(coco_results(detection, mask_chunks, image_id, categories))

    def report_progress() -> None:
        if progress is not None:
            progress(next(numbers), total)

    # not inference_mode: a cache filled here may serve training
    with _in_eval_mode(detector), torch.no_grad():
        write_results(predictions, encoded_results(), runtime, report_progress)
    return any(all_gather(lambda: has_masks, runtime.world_size))


def _categories(detector: nn.Module, classes: Sequence[str] | None, index: Dataset) -> tuple[int | None, ...]:
    known = getattr(detector, "num_classes", None)
    if classes is None and known not in (None, len(index.classes)):
        raise UserError(
            f"the detector has {known} classes, {index.annotation_file} has {len(index.classes)} categories; "
            "evaluate it on the data that it was trained for"
        )
    return match_categories(classes, index.classes, index.category_ids, source=str(index.annotation_file))


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
