"""Detection on the images of a dataset, written as COCO results, and evaluation of a detector."""

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
from afictl.data.image_listing import require_images
from afictl.data.transforms import resized_size, to_float, view
from afictl.detectors import Detector, iter_pasted_masks, to_original
from afictl.detectors.image_memory import require_image_memory
from afictl.distributed import Runtime, all_gather, run_on_rank_zero
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.evaluation.detection_limit import DetectionSummary
from afictl.evaluation.prediction_writer import CocoResult, coco_results, write_results
from afictl.evaluation.scoring import Evaluation, score_predictions
from afictl.evaluation.views import Views, require_detector
from afictl.presets import InputConfig
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
    views: Views | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Compute box and mask metrics of a detector, on every rank. Other arguments are those of ``detect``.

    Args:
        predictions: file of COCO results to write; None: a temporary file.
        evaluator: ``"hotcoco"``, or ``"pycocotools"``, the slow reference.

    Raises:
        UserError: as ``detect``.
    """
    with tempfile.TemporaryDirectory() if predictions is None else nullcontext() as folder:
        path = Path(folder) / PREDICTIONS if folder else Path(predictions or "")
        summary = detect(
            detector,
            dataset,
            path,
            runtime,
            classes=classes,
            limit=limit,
            batch_size=batch_size,
            views=views,
            progress=progress,
        )

        def score() -> Evaluation:
            ids = dataset.image_ids[:limit]
            return score_predictions(path, dataset, image_ids=ids, evaluator=evaluator, masks=summary.has_masks)

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
    views: Views | None = None,
    progress: ProgressCallback | None = None,
) -> DetectionSummary:
    """Write the detections of a detector to a file of COCO results; return, on every rank, what they are.

    The file has category ids of the dataset, ``bbox`` as xywh in pixels of the original image, masks as compressed run
    lengths, and ``mask_score`` from a detector with mask scoring. It is written atomically.

    Args:
        detector: on ``runtime.device``; a ``Detector``, whose images are resized by its ``input`` config, or any module
            with torchvision's detection convention, whose images have their original size.
        dataset: images to detect on.
        predictions: file to write, on rank 0.
        runtime: each rank detects on every ``world_size``-th batch; all ranks must call this.
        classes: class names of the detector in label order, matched to the dataset by name; None: those of the dataset.
        limit: maximum number of images.
        batch_size: images per forward pass; with ``views`` one.
        views: several views of each image instead of one that is resized; see ``Views``.
        progress: called on every rank with the number of images done and of all images; what it raises on any rank is
            raised on all.

    Raises:
        UserError: on all ranks: the detector and the dataset have different classes, ``views`` for a module that is no
            ``Detector``, or an unreadable image; before the first image, if files are missing or cannot be images, or
            memory is too small for an image.
    """
    if views is not None:
        require_detector(detector, "detection in several views")
    elif isinstance(detector, Detector):
        require_image_memory(detector.preset, runtime.device)
    categories = _categories(detector, classes, dataset)
    total = len(dataset.image_ids[:limit])
    images = None if limit is None else range(len(dataset))[:limit]
    run_on_rank_zero(lambda: require_images(dataset, images), runtime.rank, runtime.world_size)
    detection_limit = detector.preset.detector.max_detections if isinstance(detector, Detector) else None
    has_masks, cut_images = False, 0

    def results() -> Iterator[list[CocoResult]]:
        nonlocal has_masks, cut_images
        for image in _detect_images(detector, dataset, runtime, limit, batch_size, views):
            has_masks = has_masks or image.masks is not None
            cut_images += len(image.detection["scores"]) == detection_limit
            yield coco_results(image.detection, image.masks, image.image_id, categories)

    def report_progress(images: int) -> None:
        if progress is not None:
            progress(images, total)

    # not inference_mode: a cache filled here may serve training
    with in_eval_mode(detector), torch.no_grad():
        write_results(predictions, results(), runtime, report_progress)
    counts = all_gather(lambda: (has_masks, cut_images), runtime.world_size)
    cut_images = sum(cut for _, cut in counts)
    return DetectionSummary(any(masks for masks, _ in counts), detection_limit, total, cut_images)


class ImageDetection(NamedTuple):
    """Detections on one image, in its original pixels."""

    image_id: int
    detection: dict[str, Tensor]
    """``boxes`` (N,4) xyxy, ``labels`` (N,) 1..K, ``scores`` (N,), optionally ``mask_scores`` (N,)."""
    masks: Iterable[Tensor] | None
    """The N masks at the original size in chunks, bool (n,H,W); None without masks."""


def paste_in_original(detector: Detector, detection: dict[str, Tensor], size_hw: tuple[int, int]) -> Iterator[Tensor]:
    """Yield masks of a detection in chunks, bool (n,H,W); ``boxes`` are in pixels of an image of ``size_hw``."""
    probabilities = detection["mask_probs"].float()
    return iter_pasted_masks(probabilities, detection["boxes"], size_hw, detector.paste_masks)


def _detect_images(
    detector: nn.Module,
    dataset: Dataset,
    runtime: Runtime,
    limit: int | None,
    batch_size: int,
    views: Views | None,
) -> Iterator[ImageDetection]:
    """Yield the detections on each image of this rank; arguments as in ``detect``."""
    if not isinstance(detector, Detector):
        yield from _detect_with_module(detector, dataset, runtime, limit)
        return
    batches = partial(
        eval_batches,
        dataset,
        workers=runtime.workers,
        limit=limit,
        rank=runtime.rank,
        world_size=runtime.world_size,
        device=runtime.device,
    )
    for batch in batches(detector.input, batch_size) if views is None else batches(None):
        detections = detect_batch(detector, batch.images, batch.original_sizes, runtime, views)
        for image_id, detection, size_hw in zip(batch.image_ids, detections, batch.original_sizes, strict=True):
            masks = paste_in_original(detector, detection, size_hw) if "mask_probs" in detection else None
            yield ImageDetection(image_id, detection, masks)


class ResizedImage(NamedTuple):
    """An image at the size for the detector."""

    tensor: Tensor
    """uint8 (3,h,w), resized, or with ``Views`` at its original size."""
    original_hw: tuple[int, int]


def resize_for_test(config: InputConfig | None, image: Tensor) -> ResizedImage:
    """Resize ``image``, uint8 (3,H,W), to the test size of ``config``; None leaves it at its original size."""
    size_hw = (image.shape[1], image.shape[2])
    if config is None:
        return ResizedImage(image, size_hw)
    return ResizedImage(view(image, resized_size(config, size_hw, config.test_size), flip=False), size_hw)


def detect_batch(
    detector: Detector,
    images: Sequence[Tensor],
    original_sizes: Sequence[tuple[int, int]],
    runtime: Runtime,
    views: Views | None = None,
) -> list[dict[str, Tensor]]:
    """Detect in a batch of images; the boxes are in original pixels.

    Args:
        detector: on ``runtime.device``, in eval mode.
        images: uint8 or float in 0..1, (3,h,w); resized, or with ``views`` at their original size.
        original_sizes: height and width of each image before resizing.
        runtime: device and precision.
        views: several views of each image, which are the batches instead; None: one view.

    Returns:
        For each image a detection as of ``Detector.detect``, with ``mask_probs`` on the grids of the boxes.
    """
    with runtime.autocast():
        if views is None:
            detections = detector.detect([to_float(image.to(runtime.device)) for image in images])
        else:
            detections = [views.detect(detector, image) for image in images]
    sizes_hw = [(image.shape[-2], image.shape[-1]) for image in images]
    return [to_original(*triple) for triple in zip(detections, sizes_hw, original_sizes, strict=True)]


def _detect_with_module(
    detector: nn.Module, dataset: Dataset, runtime: Runtime, limit: int | None
) -> Iterator[ImageDetection]:
    """Yield the detections of a module with torchvision's convention, on one image of original size at a time."""
    for i, image_id in list(enumerate(dataset.image_ids[:limit]))[runtime.rank :: runtime.world_size]:
        image = to_float(read_image(dataset.image_path(i), dataset.size_hw(i))).to(runtime.device)
        with runtime.autocast():
            (detection,) = detector([image])
        masks = detection.get("masks")
        # torchvision's (N,1,H,W) probabilities or bool (N,H,W), one mask at a time
        chunks = None if masks is None else ((mask.reshape(1, *mask.shape[-2:]) > 0.5) for mask in masks)
        yield ImageDetection(image_id, detection, chunks)


def _categories(detector: nn.Module, classes: Sequence[str] | None, dataset: Dataset) -> tuple[int | None, ...]:
    """Category id of each label."""
    num_classes = getattr(detector, "num_classes", None)
    if classes is None and num_classes not in (None, len(dataset.classes)):
        raise UserError(
            f"the detector has {num_classes} classes, {dataset.annotation_file} has {len(dataset.classes)} categories; "
            "evaluate it on data with the classes that it was trained on"
        )
    return match_categories(classes, dataset)


@contextmanager
def in_eval_mode(detector: nn.Module) -> Iterator[None]:
    """Set eval mode inside, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
