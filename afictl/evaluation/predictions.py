"""COCO results from a file or list, read in chunks, validated, and stored as columns with masks on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET

from afictl.data.formats.coco_records import Record
from afictl.data.mask_geometry import corners_of
from afictl.data.plausibility import Implausibility, describe_boxes, describe_masks
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth
from afictl.evaluation.mask_file import MaskFile
from afictl.evaluation.prediction_faults import require_results
from afictl.evaluation.result_masks import Box, ResultMask, boxes_of, compress_boxes, compress_masks, parse_mask
from afictl.json_files import iter_json_text, read_json

_CHUNK_BYTES = 2**17  # of a file, parsed at a time
_CHUNK_RESULTS = 1024  # of a list, converted at a time
_SAMPLE_MASKS = 256  # of all results, compared with their boxes


class Result(msgspec.Struct, gc=False):
    """One COCO result, with a box, a mask or both."""

    image_id: int | float
    category_id: int | float
    """Integers; pandas writes them as 206.0 in a column with missing values."""
    score: float
    bbox: Box | None = None
    """xywh in pixels of the original image."""
    mask_score: float | None = None
    """Score that ranks the mask instead of ``score``."""
    segmentation: ResultMask = UNSET


@dataclass(frozen=True)
class Predictions:
    """k results for the images of a ground truth, sorted by image, then in the order of the source."""

    images: np.ndarray
    """(k,) int64, position of the image in the ground truth."""
    sizes_hw: np.ndarray
    """(k,2) int64, size of the image."""
    categories: np.ndarray
    """(k,) int64, position of the category."""
    boxes: np.ndarray
    """(k,4) float64 xywh; the bounding box of the mask where a result has no box, as in ``loadRes`` of pycocotools."""
    scores: np.ndarray
    mask_scores: np.ndarray
    """(k,) float64, like ``scores``."""
    mask_areas: np.ndarray
    """(k,) float64, pixels."""
    has_mask: np.ndarray
    """(k,) bool; where any result has a mask, one without the key ``segmentation`` has its box as mask, as in
    ``loadRes``."""
    mask_rows: np.ndarray
    """(k,) int64, index of the mask of each result in ``masks``."""
    masks: MaskFile

    def results_of(self, first: int, last: int) -> slice:
        """The results of the images from ``first`` to before ``last``."""
        return slice(*np.searchsorted(self.images, [first, last]).tolist())

    def find_implausible(self) -> Implausibility:
        """Look at the distribution of boxes, and of a sample of masks, over the results."""
        rows = np.flatnonzero(self.has_mask)
        rows = rows[:: 1 + len(rows) // _SAMPLE_MASKS]
        counts = self.masks.read(self.mask_rows[rows].tolist())
        extents = np.full(self.boxes.shape, np.nan)
        extents[rows] = corners_of(boxes_of(counts, self.sizes_hw[rows]))
        boxes = describe_boxes(self.boxes, self.sizes_hw, masks=extents)
        return Implausibility(boxes, "" if boxes else describe_masks(self.boxes, extents))


class _IrregularError(Exception):
    """Results that have to be validated one by one."""


def read_predictions(source: list[Record] | Path, ground_truth: GroundTruth, restricted: bool) -> Predictions:
    """Read COCO results from a list or a JSON file; only an irregular file is loaded into memory at once.

    Args:
        source: list of COCO results, or JSON file.
        ground_truth: images and categories of the results.
        restricted: drop results of other images; otherwise they are an error.

    Raises:
        UserError: an unreadable file, or an entry that is not a result for these images and categories.
    """
    if isinstance(source, Path):
        try:
            return _collect(_file_chunks(source), ground_truth, restricted)
        except (OSError, ValueError, OverflowError, RecursionError, _IrregularError):
            results = read_json(source, "predictions", unique_keys=False)
    else:
        results = source
    name = f"predictions {source}" if isinstance(source, Path) else "predictions"
    require_results(results, name, ground_truth, restricted)
    return _collect(_list_chunks(results), ground_truth, restricted)


def iter_results(path: Path) -> Iterator[Result]:
    """Yield the results of a JSON file, reading it in chunks.

    Raises:
        UserError: an unreadable file, an entry that is not a result, or a result without a box.
    """
    try:
        for chunk in _file_chunks(path):
            for result in chunk:
                if result.bbox is None:
                    raise UserError(f"predictions {path}: a result of image {result.image_id} has no bbox")
                yield result
    except OSError as error:
        raise UserError(f"predictions {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"predictions {path}: not a JSON list of COCO results: {error}") from None


def _file_chunks(path: Path) -> Iterator[list[Result]]:
    """Parse the list in a file in chunks of complete entries."""
    decoder = msgspec.json.Decoder(list[Result])
    blocks = iter_json_text(path, _CHUNK_BYTES)
    rest = next(blocks).lstrip()
    for block in blocks:
        if cut := _last_boundary(rest):
            yield decoder.decode(rest[:cut].rstrip().removesuffix(b",") + b"]")
            rest = b"[" + rest[cut:]
        rest += block
    yield decoder.decode(rest)


def _last_boundary(text: bytes) -> int:
    """Start of the last entry of a truncated list; 0 if it is the only one.

    An opening brace after a closing brace and a comma starts an entry; inside a result it follows a colon.
    """
    at = text.rfind(b"{")
    while at > 0:
        before = text[max(0, at - 64) : at].rstrip()
        if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
            return at
        at = text.rfind(b"{", 0, at)
    return 0


def _list_chunks(results: list[Record]) -> Iterator[list[Result]]:
    for k in range(0, len(results), _CHUNK_RESULTS):
        yield [_as_result(item) for item in results[k : k + _CHUNK_RESULTS]]


def _as_result(item: Record) -> Result:
    """Convert a validated entry to a ``Result``."""
    image, category, score = (item[name] for name in ("image_id", "category_id", "score"))
    box, mask = item.get("bbox"), parse_mask(item.get("segmentation", UNSET))
    return Result(
        image, category, score, tuple(box) if isinstance(box, list) and box else None, item.get("mask_score"), mask
    )


def _collect(chunks: Iterable[list[Result]], ground_truth: GroundTruth, restricted: bool) -> Predictions:
    """Collect all results as columns.

    Raises:
        _IrregularError: a result of other images or categories, with invalid numbers or mask, or without box and mask.
    """
    columns = _Columns(ground_truth, restricted)
    for chunk in chunks:
        columns.add(chunk)
    return columns.predictions()


class _Columns:
    """Columns of all results in the order of the source, to which chunks are appended."""

    def __init__(self, ground_truth: GroundTruth, restricted: bool) -> None:
        self._truth, self._restricted = ground_truth, restricted
        self._images: dict[float, int] = {image: k for k, image in enumerate(ground_truth.image_ids.tolist())}
        self._categories: dict[float, int] = {category: k for k, category in enumerate(ground_truth.category_ids)}
        self._numbers, self._positions, self._masks = array("d"), array("q"), MaskFile()

    def add(self, chunk: list[Result]) -> None:
        if any(item.category_id not in self._categories or not (item.bbox or item.segmentation) for item in chunk):
            raise _IrregularError
        results = [item for item in chunk if item.image_id in self._images]
        if len(results) < len(chunk) and (not self._restricted or any(item.image_id % 1 for item in chunk)):
            raise _IrregularError
        images = [self._images[item.image_id] for item in results]
        sizes_hw = self._truth.sizes_hw[images].reshape(-1, 2)
        counts, areas = compress_masks([item.segmentation for item in results], sizes_hw)
        self._masks.add(b"".join(counts), map(len, counts))
        for item, image in zip(results, images, strict=True):
            self._positions.extend((image, self._categories[item.category_id], item.segmentation is UNSET))
        for item, box, area in zip(results, _boxes(results, counts, sizes_hw), areas.tolist(), strict=True):
            mask_score = item.score if item.mask_score is None else item.mask_score
            self._numbers.extend((*box, item.score, mask_score, area))

    def predictions(self) -> Predictions:
        numbers = np.frombuffer(self._numbers, dtype=np.float64).reshape(-1, 7)
        images, categories, is_unset = np.frombuffer(self._positions, dtype=np.int64).reshape(-1, 3).T
        if not np.isfinite(numbers).all():
            raise _IrregularError
        boxes, scores, mask_scores, mask_areas = numbers[:, :4], numbers[:, 4], numbers[:, 5], numbers[:, 6].copy()
        has_mask, mask_rows = self._masks.present(), np.arange(len(images))
        if has_mask.any() and is_unset.any():
            rows = np.flatnonzero(is_unset)
            counts, mask_areas[rows] = compress_boxes(boxes[rows], self._truth.sizes_hw[images[rows]])
            self._masks.add(b"".join(counts), map(len, counts))
            mask_rows[rows], has_mask[rows] = len(images) + np.arange(len(rows)), True
        order = np.argsort(images, kind="stable")
        return Predictions(
            images=images[order],
            sizes_hw=self._truth.sizes_hw[images[order]],
            categories=categories[order],
            boxes=boxes[order],
            scores=scores[order],
            mask_scores=mask_scores[order],
            mask_areas=mask_areas[order],
            has_mask=has_mask[order],
            mask_rows=mask_rows[order],
            masks=self._masks,
        )


def _boxes(results: list[Result], counts: list[bytes], sizes_hw: np.ndarray) -> list[Box]:
    """Boxes of results, or else bounding boxes of masks, as in ``loadRes`` of pycocotools."""
    without_box = [k for k, item in enumerate(results) if item.bbox is None]
    mask_boxes = iter(boxes_of([counts[k] for k in without_box], sizes_hw[without_box]).tolist())
    return [item.bbox or next(mask_boxes) for item in results]
