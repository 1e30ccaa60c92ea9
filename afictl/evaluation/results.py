"""Detections on original pixels as COCO result dicts; masks leave as run-length strings at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from afictl.errors import UserError


def coco_results(
    detection: dict[str, Tensor],
    mask_chunks: Iterable[Tensor] | None,
    image_id: int,
    categories: Sequence[int | None],
) -> list[dict[str, Any]]:
    """COCO result dicts of one image.

    Args:
        detection: ``boxes`` (N,4) xyxy in original pixels, ``labels`` (N,) 1..K, ``scores`` (N,), and
            ``mask_scores`` (N,) where masks are ranked by a score of their own: ``mask_score`` of a result.
        mask_chunks: the N masks as bool tensors (n,H,W), a few at a time; None without masks.
        image_id: of the annotation file.
        categories: category id of each label; detections of a label without one are dropped.
    """
    boxes = detection["boxes"].detach().float().cpu()
    labels = detection["labels"].tolist()
    if labels and not (min(labels) >= 1 and max(labels) <= len(categories)):
        raise UserError(
            f"the detector answers label {max(labels)}, the data set has {len(categories)} categories; "
            "pass the detector's class names as classes"
        )
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    results = [
        {"image_id": image_id, "category_id": categories[label - 1], "bbox": box, "score": score}
        for label, box, score in zip(labels, xywh, detection["scores"].tolist(), strict=True)
    ]
    if mask_chunks is not None:
        for result, segmentation in zip(results, _run_lengths(mask_chunks), strict=True):
            result["segmentation"] = segmentation
    if "mask_scores" in detection:
        for result, score in zip(results, detection["mask_scores"].tolist(), strict=True):
            result["mask_score"] = score
    return [result for result in results if result["category_id"] is not None]


def _run_lengths(mask_chunks: Iterable[Tensor]) -> Iterator[dict[str, Any]]:
    """COCO's compressed run lengths (``size`` (H, W), ``counts`` as str) of each mask."""
    from pycocotools import mask as coco_mask

    for chunk in mask_chunks:
        for mask in chunk.cpu():
            encoded = coco_mask.encode(_by_columns(mask).numpy().T)
            yield {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def _by_columns(mask: Tensor) -> Tensor:
    """The mask (H,W) as uint8 (W,H), the order in which run lengths count.

    Only the columns that the object reaches are transposed, which takes most of the time on a photograph.
    """
    columns = torch.zeros(mask.shape[1], mask.shape[0], dtype=torch.uint8)
    reached = mask.any(dim=0).nonzero()
    if len(reached):
        part = slice(int(reached[0]), int(reached[-1]) + 1)
        columns[part] = mask[:, part].t()
    return columns
