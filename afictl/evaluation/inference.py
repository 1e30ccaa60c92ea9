"""Detection on the images of a dataset, written as COCO results image by image, and its metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from afictl.data import Dataset, eval_batches, read_image
from afictl.data.transforms import to_float
from afictl.detectors import Detector, iter_pasted_masks, to_original
from afictl.distributed import Runtime, all_gather, run_on_rank_zero
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.evaluation.prediction_writer import CocoResult, coco_results, write_results
from afictl.evaluation.scoring import Evaluation, score_predictions
from afictl.evaluation.tta import TestTimeAugmentation, detect_augmented, require_multi_scale
from afictl.progress import ProgressCallback
from afictl.run_folder import PREDICTIONS


def evaluate(
    detector: nn.Module,
    dataset: Dataset,
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
        dataset: the dataset; its annotation file is the ground truth, crowds included.
        predictions: COCO results file to write; None writes to a temporary folder.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference.

    Raises:
        UserError: as ``detect``.
    """
    with tempfile.TemporaryDirectory() if predictions is None else nullcontext() as folder:
        path = Path(folder) / PREDICTIONS if folder else Path(predictions or "")
        masks = detect(
            detector,
            dataset,
            path,
            runtime,
            classes=classes,
            limit=limit,
            batch_size=batch_size,
            tta=tta,
            progress=progress,
        )

        def score() -> Evaluation:
            ids = dataset.image_ids[:limit]
            return score_predictions(path, dataset, image_ids=ids, evaluator=evaluator, masks=masks)

        return run_on_rank_zero(score, runtime.rank, runtime.world_size)


def detect(
    detector: nn.Module,
    dataset: Dataset,
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

    The file has category ids of the dataset, ``bbox`` as xywh in pixels of the original image and masks as compressed
    run lengths. A detector that scores masks apart from boxes adds ``mask_score``. The file replaces an earlier one
    once it is complete; a failure leaves the earlier one.

    Args:
        detector: a ``Detector``, which gets images resized as its ``input`` config says, or any module with
            torchvision's detection convention, which gets them in their original size. On ``runtime.device``.
        dataset: the dataset.
        predictions: the file; written by rank 0 alone.
        runtime: each rank detects on every ``world_size``-th batch; all ranks must call this.
        classes: the detector's class names in label order, matched to the dataset's by name; None takes the order
            of the dataset.
        limit: use only the first images.
        batch_size: images detected at once.
        tta: views of each image; with them one image is detected at a time.
        progress: called on rank 0 with the number of images done and of all images.

    Raises:
        UserError: the detector's classes are not those of the dataset, ``tta`` for a module that is no ``Detector``,
            or an image that cannot be read; on all ranks.
    """
    if tta is not None:
        require_multi_scale(detector)
    categories = _categories(detector, classes, dataset)
    total = len(dataset.image_ids[:limit])
    has_masks = False

    def results() -> Iterator[list[CocoResult]]:
        nonlocal has_masks
        for image in _detect_images(detector, dataset, runtime, limit, batch_size, tta):
            has_masks = has_masks or image.masks is not None
            yield coco_results(image.detection, image.masks, image.image_id, categories)

    def report_progress(images: int) -> None:
        if progress is not None:
            progress(images, total)

    # not inference_mode: a cache filled here may serve training
    with _in_eval_mode(detector), torch.no_grad():
        write_results(predictions, results(), runtime, report_progress)
    return any(all_gather(lambda: has_masks, runtime.world_size))


class ImageDetection(NamedTuple):
    """Detections on one image, in its original pixels."""

    image_id: int
    detection: dict[str, Tensor]
    """``boxes`` (N,4) xyxy, ``labels`` (N,) 1..K, ``scores`` (N,), perhaps ``mask_scores`` (N,)."""
    masks: Iterable[Tensor] | None
    """The N masks at the original size as chunks (n,H,W) of bool; None without masks."""


def paste_in_original(detector: Detector, detection: dict[str, Tensor], size_hw: tuple[int, int]) -> Iterator[Tensor]:
    """Masks bool (n,H,W) of a detection whose ``boxes`` are in the pixels of an image of ``size_hw``, in chunks."""
    probabilities = detection["mask_probs"].float()
    return iter_pasted_masks(probabilities, detection["boxes"], size_hw, detector.paste_masks)


def _detect_images(
    detector: nn.Module,
    dataset: Dataset,
    runtime: Runtime,
    limit: int | None,
    batch_size: int,
    tta: TestTimeAugmentation | None,
) -> Iterator[ImageDetection]:
    """The detections on each image of this rank; arguments as in ``detect``."""
    if not isinstance(detector, Detector):
        yield from _detect_with_module(detector, dataset, runtime, limit)
        return
    batches = partial(
        eval_batches, dataset, workers=runtime.workers, limit=limit, rank=runtime.rank, world_size=runtime.world_size
    )
    for batch in batches(detector.input, batch_size) if tta is None else batches(None):
        with runtime.autocast():
            if tta is None:
                detections = detector.detect([image.to(runtime.device) for image in batch.images])
            else:
                detections = [detect_augmented(detector, image, tta) for image in batch.images]
        sizes_hw = [(image.shape[-2], image.shape[-1]) for image in batch.images]
        for image_id, detection, from_hw, to_hw in zip(
            batch.image_ids, detections, sizes_hw, batch.original_sizes, strict=True
        ):
            original = to_original(detection, from_hw, to_hw)
            masks = paste_in_original(detector, original, to_hw) if "mask_probs" in original else None
            yield ImageDetection(image_id, original, masks)


def _detect_with_module(
    detector: nn.Module, dataset: Dataset, runtime: Runtime, limit: int | None
) -> Iterator[ImageDetection]:
    """The same for a module with torchvision's convention, image by image in original pixels."""
    for i, image_id in list(enumerate(dataset.image_ids[:limit]))[runtime.rank :: runtime.world_size]:
        image = to_float(read_image(dataset.image_path(i), dataset.size_hw(i))).to(runtime.device)
        with runtime.autocast():
            (detection,) = detector([image])
        masks = detection.get("masks")
        # torchvision's (N,1,H,W) probabilities or bool (N,H,W), one mask at a time
        chunks = None if masks is None else ((mask.reshape(1, *mask.shape[-2:]) > 0.5) for mask in masks)
        yield ImageDetection(image_id, detection, chunks)


def _categories(detector: nn.Module, classes: Sequence[str] | None, dataset: Dataset) -> tuple[int | None, ...]:
    """The category id of each label."""
    num_classes = getattr(detector, "num_classes", None)
    if classes is None and num_classes not in (None, len(dataset.classes)):
        raise UserError(
            f"the detector has {num_classes} classes, {dataset.annotation_file} has {len(dataset.classes)} categories; "
            "evaluate it on the data that it was trained for"
        )
    return match_categories(classes, dataset)


@contextmanager
def _in_eval_mode(detector: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is back in its own mode, frozen parts included."""
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
