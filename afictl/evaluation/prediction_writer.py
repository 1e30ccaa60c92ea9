"""COCO results of detections, and the file with the results of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import msgspec
import torch
from torch import Tensor

from afictl.distributed import Runtime, all_gather, gather_in_turn
from afictl.errors import UserError
from afictl.files import name_file_in_errors, replace_file, temporary_path


class EncodedMask(TypedDict):
    """COCO's compressed run-length encoding of a mask."""

    size: list[int]
    """Height and width."""
    counts: str


class _BoxResult(TypedDict):
    image_id: int
    category_id: int
    bbox: list[float]
    """xywh in pixels of the original image."""
    score: float


class CocoResult(_BoxResult, total=False):
    """One prediction in COCO's result format."""

    segmentation: EncodedMask
    mask_score: float
    """Score of the mask, from a detector with mask scoring."""


def coco_results(
    detection: dict[str, Tensor],
    mask_chunks: Iterable[Tensor] | None,
    image_id: int,
    categories: Sequence[int | None],
) -> list[CocoResult]:
    """COCO results of the detections on one image.

    Args:
        detection: ``boxes`` (N,4) xyxy in original pixels, ``labels`` (N,) 1..K, ``scores`` (N,), and optionally
            ``mask_scores`` (N,).
        mask_chunks: the N masks in chunks, bool (n,H,W); None without masks.
        image_id: id in the annotation file.
        categories: category id of each label; None drops the detections of a label.

    Raises:
        UserError: a label outside 1..K.
    """
    boxes = detection["boxes"].detach().float().cpu()
    labels = detection["labels"].tolist()
    if labels and not (min(labels) >= 1 and max(labels) <= len(categories)):
        raise UserError(
            f"the detector predicts label {max(labels)}, the dataset has {len(categories)} categories; "
            "pass the detector's class names as classes"
        )
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    segmentations = [None] * len(labels) if mask_chunks is None else _run_lengths(mask_chunks)
    mask_scores = detection["mask_scores"].tolist() if "mask_scores" in detection else [None] * len(labels)
    rows = zip(labels, xywh, detection["scores"].tolist(), segmentations, mask_scores, strict=True)
    results = []
    for label, box, score, segmentation, mask_score in rows:
        if (category_id := categories[label - 1]) is None:
            continue
        result: CocoResult = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        if segmentation is not None:
            result["segmentation"] = segmentation
        if mask_score is not None:
            result["mask_score"] = mask_score
        results.append(result)
    return results


def _run_lengths(mask_chunks: Iterable[Tensor]) -> Iterator[EncodedMask]:
    from pycocotools import mask as coco_mask

    for chunk in mask_chunks:
        for mask in chunk.cpu():
            encoded = coco_mask.encode(_transposed(mask).numpy().T)
            yield {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def _transposed(mask: Tensor) -> Tensor:
    """Transpose a mask (H,W) to uint8 (W,H), the order of run lengths.

    Only the columns of the object are copied, as a full transpose is slow for large images.
    """
    columns = torch.zeros(mask.shape[1], mask.shape[0], dtype=torch.uint8)
    covered = mask.any(dim=0).nonzero()
    if len(covered):
        part = slice(int(covered[0]), int(covered[-1]) + 1)
        columns[part] = mask[:, part].t()
    return columns


class ResultsFile:
    """A JSON list with one result per line, written to a draft that replaces ``path`` in ``finish``.

    Raises:
        OSError: the folder cannot be created or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._draft = temporary_path(path)
        self._file = self._draft.open("wb")
        self._separator = b"["

    def add(self, results: bytes) -> None:
        """Append encoded results."""
        if results:
            with name_file_in_errors(self.path):
                self._file.write(self._separator + b"\n" + results)
            self._separator = b","

    def finish(self) -> None:
        """Complete the draft and replace ``path`` by it."""
        with name_file_in_errors(self.path):
            self._file.write(b"[]\n" if self._separator == b"[" else b"\n]\n")
            self._file.close()
            replace_file(self._draft, self.path)

    def discard(self) -> None:
        """Remove an incomplete draft."""
        with suppress(OSError):
            self._file.close()
        self._draft.unlink(missing_ok=True)


def write_results(
    path: Path, images: Iterator[list[CocoResult]], runtime: Runtime, progress: Callable[[int], None]
) -> None:
    """Write the results of all ranks to one file, on rank 0.

    Args:
        path: file to write.
        images: results of each image of this rank, consumed a few at a time.
        runtime: all its ranks must call this.
        progress: called on every rank with the number of images whose results are gathered; may raise, too.

    Raises:
        Exception: raised by ``images`` or ``progress`` on any rank, see ``all_gather``; an earlier file is kept.
    """
    file: ResultsFile | None = None
    written = 0

    def start() -> None:
        nonlocal file
        file = ResultsFile(path) if runtime.is_main_process else None

    def write(results: bytes) -> None:
        nonlocal written
        if file is not None:
            file.add(results)
        written += 1
        progress(written)

    def finish() -> None:
        if file is not None:
            file.finish()

    encoded = (b",\n".join(map(msgspec.json.encode, results)) for results in images)
    try:
        all_gather(start, runtime.world_size)
        gather_in_turn(encoded, write, runtime.world_size)
        all_gather(finish, runtime.world_size)
    finally:
        if file is not None:
            file.discard()
