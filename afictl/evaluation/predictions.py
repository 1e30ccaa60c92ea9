"""COCO results from a file or list, read in chunks, validated, and stored as columns with masks on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from afictl.data.formats.coco_records import Record
from afictl.data.run_lengths import run_length_areas
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth
from afictl.evaluation.mask_file import MaskFile
from afictl.evaluation.prediction_faults import require_results
from afictl.json_files import iter_json_text, read_json

_CHUNK_BYTES = 2**17  # of a file, parsed at a time
_CHUNK_RESULTS = 1024  # of a list, converted at a time

Box: TypeAlias = tuple[float, float, float, float]


class ResultMask(msgspec.Struct, gc=False):
    """Mask of a result: ``size`` (H, W), and ``counts``, compressed or a list of runs."""

    size: tuple[int, int]
    counts: str | list[int]


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
    segmentation: ResultMask | None = None


@dataclass(frozen=True)
class Predictions:
    """k results for the images of a ground truth, sorted by image, then in the order of the source."""

    images: np.ndarray
    """(k,) int64, position of the image in the ground truth."""
    categories: np.ndarray
    """(k,) int64, position of the category."""
    boxes: np.ndarray
    """(k,4) float64 xywh; the bounding box of the mask where a result has no box."""
    scores: np.ndarray
    mask_scores: np.ndarray
    """(k,) float64, like ``scores``."""
    mask_areas: np.ndarray
    """(k,) float64, pixels."""
    has_mask: np.ndarray
    """(k,) bool."""
    mask_rows: np.ndarray
    """(k,) int64, index of the mask of each result in ``masks``."""
    masks: MaskFile

    def results_of(self, first: int, last: int) -> slice:
        """The results of the images from ``first`` to before ``last``."""
        return slice(*np.searchsorted(self.images, [first, last]).tolist())


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
    mask = item.get("segmentation") or None
    if mask:
        counts = mask["counts"]
        mask = ResultMask(tuple(mask["size"]), counts.decode("ascii") if isinstance(counts, bytes) else counts)
    image, category, score = (item[name] for name in ("image_id", "category_id", "score"))
    return Result(image, category, score, item.get("bbox") or None, item.get("mask_score"), mask)


def _collect(chunks: Iterable[list[Result]], ground_truth: GroundTruth, restricted: bool) -> Predictions:
    """Collect all results as columns.

    Raises:
        _IrregularError: a result of other images or categories, with invalid numbers or mask, or without box and mask.
    """
    image_positions: dict[float, int] = {image: k for k, image in enumerate(ground_truth.image_ids.tolist())}
    categories: dict[float, int] = {category: k for k, category in enumerate(ground_truth.category_ids)}
    numbers, positions, masks = array("d"), array("q"), MaskFile()
    for chunk in chunks:
        if any(item.category_id not in categories or not (item.bbox or item.segmentation) for item in chunk):
            raise _IrregularError
        results = [item for item in chunk if item.image_id in image_positions]
        if len(results) < len(chunk) and (not restricted or any(item.image_id % 1 for item in chunk)):
            raise _IrregularError
        images = [image_positions[item.image_id] for item in results]
        counts = [_compressed_counts(item.segmentation) for item in results]
        areas = _store_masks(results, counts, ground_truth.sizes_hw[images], masks)
        positions.extend(
            chain.from_iterable(zip(images, [categories[item.category_id] for item in results], strict=True))
        )
        for item, box, area in zip(results, _boxes(results, counts), areas, strict=True):
            mask_score = item.score if item.mask_score is None else item.mask_score
            numbers.extend((*box, item.score, mask_score, area))
    number_table = np.frombuffer(numbers, dtype=np.float64).reshape(-1, 7)
    position_table = np.frombuffer(positions, dtype=np.int64).reshape(-1, 2)
    if not np.isfinite(number_table).all():
        raise _IrregularError
    order = np.argsort(position_table[:, 0], kind="stable")
    number_table, position_table = number_table[order], position_table[order]
    return Predictions(
        images=position_table[:, 0],
        categories=position_table[:, 1],
        boxes=number_table[:, :4],
        scores=number_table[:, 4],
        mask_scores=number_table[:, 5],
        mask_areas=number_table[:, 6],
        has_mask=masks.present()[order],
        mask_rows=order,
        masks=masks,
    )


def _compressed_counts(mask: ResultMask | None) -> str:
    """Compressed run lengths; empty without a mask."""
    if mask is None:
        return ""
    if isinstance(mask.counts, str):
        return mask.counts
    height, width = mask.size
    if sum(mask.counts) != height * width or min(mask.counts) < 0:
        raise _IrregularError
    runs = {"size": [height, width], "counts": mask.counts}
    return str(coco_mask.frPyObjects(runs, height, width)["counts"], "ascii")


def _store_masks(results: list[Result], counts: list[str], sizes_hw: np.ndarray, masks: MaskFile) -> list[int]:
    """Append the masks of results to ``masks``; return their areas in pixels, 0 without a mask."""
    packed, lengths = "".join(counts).encode("ascii"), np.array(list(map(len, counts)), dtype=np.int64)
    masks.add(packed, lengths.tolist())
    mask_sizes = [item.segmentation.size for item in results if item.segmentation is not None]
    areas = np.zeros(len(results), dtype=np.int64)
    if mask_sizes:
        has_mask = np.array([item.segmentation is not None for item in results], dtype=bool)
        areas[has_mask] = run_length_areas(packed, lengths[has_mask], sizes_hw[has_mask].prod(axis=1))
        if (np.array(mask_sizes) != sizes_hw[has_mask]).any() or (areas < 0).any():
            raise _IrregularError
    return areas.tolist()


def _boxes(results: list[Result], counts: list[str]) -> list[Box]:
    """Boxes of results, or else bounding boxes of masks, as in ``loadRes`` of pycocotools."""
    without_box = [k for k, item in enumerate(results) if item.bbox is None]
    runs = [{"size": mask.size, "counts": counts[k]} for k in without_box if (mask := results[k].segmentation)]
    mask_boxes = iter(coco_mask.toBbox(runs).tolist() if runs else ())
    return [item.bbox or next(mask_boxes) for item in results]
