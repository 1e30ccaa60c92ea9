"""COCO results from outside: read in pieces, checked, and kept as columns with their masks on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from afictl.data.formats.coco_records import read_json
from afictl.data.run_lengths import run_length_areas
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth
from afictl.evaluation.mask_file import MaskFile
from afictl.evaluation.prediction_faults import require_results

_PIECE = 2**17  # bytes of a file that are parsed at once
_LOT = 1024  # results of a list that are taken at once

Box = tuple[float, float, float, float]


class RunLengths(msgspec.Struct, gc=False):
    """A mask as results give it; ``size`` (H, W), ``counts`` compressed or a list of runs."""

    size: tuple[int, int]
    counts: str | list[int]


class Result(msgspec.Struct, gc=False):
    """One COCO result, with a box or a mask at least."""

    image_id: int | float
    category_id: int | float
    """Whole numbers, which pandas writes as 206.0 where one of a column is missing."""
    score: float
    bbox: Box | None = None
    """xywh in pixels of the original image."""
    mask_score: float | None = None
    """Ranks the mask instead of ``score`` where a detector judges it apart from the box."""
    segmentation: RunLengths | None = None


@dataclass(frozen=True)
class Predictions:
    """The k results for the images of a ground truth, sorted by image, else in their order."""

    images: np.ndarray
    """(k,) int64, position of the image in the ground truth."""
    categories: np.ndarray
    """(k,) int64, position of the category."""
    boxes: np.ndarray
    """(k,4) float64 xywh; the box around the mask where a result has none of its own."""
    scores: np.ndarray
    mask_scores: np.ndarray
    """(k,) float64 each."""
    mask_areas: np.ndarray
    """(k,) float64, pixels."""
    has_mask: np.ndarray
    """(k,) bool."""
    mask_rows: np.ndarray
    """(k,) int64, where ``masks`` has each."""
    masks: MaskFile

    def of(self, first: int, last: int) -> slice:
        """The rows of results of the images from ``first`` to before ``last``."""
        return slice(*np.searchsorted(self.images, [first, last]).tolist())


class _UnusualError(Exception):
    """Something that only a look at each result for itself can judge."""


def read_predictions(source: list[dict[str, Any]] | Path, ground_truth: GroundTruth, restricted: bool) -> Predictions:
    """Results of a list or a JSON file, which is never in memory as a whole unless something in it is unusual.

    With ``restricted`` those of other images are dropped (a limited evaluation); otherwise they are an error:
    the results belong to another data set.

    Raises:
        UserError: a file that cannot be read, or an entry that is no result of these images and categories.
    """
    if isinstance(source, Path):
        try:
            return _collect(_in_pieces(source), ground_truth, restricted)
        except (OSError, ValueError, OverflowError, _UnusualError):
            results = read_json(source, "predictions")
    else:
        results = source
    named = f"predictions {source}" if isinstance(source, Path) else "predictions"
    require_results(results, named, ground_truth, restricted)
    return _collect(_in_lots(results), ground_truth, restricted)


def iter_results(path: Path) -> Iterator[Result]:
    """The results of a JSON file, one by one, without having all in memory.

    Raises:
        UserError: a file that cannot be read, or an entry that is no result, or one without a box.
    """
    try:
        for piece in _in_pieces(path):
            for result in piece:
                if result.bbox is None:
                    raise UserError(f"predictions {path}: a result of image {result.image_id} has no bbox")
                yield result
    except OSError as error:
        raise UserError(f"predictions {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"predictions {path}: not a JSON list of COCO results: {error}") from None


def _in_pieces(path: Path) -> Iterator[list[Result]]:
    """Parts of the list in a file, cut between two of its entries."""
    decoder = msgspec.json.Decoder(list[Result])
    with path.open("rb") as file:
        rest = file.read(_PIECE).lstrip()
        while block := file.read(_PIECE):
            if cut := _last_seam(rest):
                yield decoder.decode(rest[:cut].rstrip().removesuffix(b",") + b"]")
                rest = b"[" + rest[cut:]
            rest += block
    yield decoder.decode(rest)


def _last_seam(text: bytes) -> int:
    """Where the last entry of a cut list begins; 0 where no other entry ends before it.

    A brace after a brace and a comma begins an entry: inside of a result one is only ever behind a colon.
    """
    at = text.rfind(b"{")
    while at > 0:
        before = text[max(0, at - 64) : at].rstrip()
        if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
            return at
        at = text.rfind(b"{", 0, at)
    return 0


def _in_lots(results: list[dict[str, Any]]) -> Iterator[list[Result]]:
    for k in range(0, len(results), _LOT):
        yield [_as_result(item) for item in results[k : k + _LOT]]


def _as_result(item: dict[str, Any]) -> Result:
    """A checked entry in the types of one from a file."""
    mask = item.get("segmentation") or None
    if mask:
        counts = mask["counts"]
        mask = RunLengths(tuple(mask["size"]), counts.decode("ascii") if isinstance(counts, bytes) else counts)
    image, category, score = (item[name] for name in ("image_id", "category_id", "score"))
    return Result(image, category, score, item.get("bbox") or None, item.get("mask_score"), mask)


def _collect(lots: Iterable[list[Result]], ground_truth: GroundTruth, restricted: bool) -> Predictions:
    """Columns of all results.

    Raises:
        _UnusualError: a result that is not for this ground truth, is not finite, has no sound mask, or neither a box
            nor a mask.
    """
    place: dict[float, int] = {image: k for k, image in enumerate(ground_truth.image_ids.tolist())}
    column: dict[float, int] = {category: k for k, category in enumerate(ground_truth.category_ids)}
    numbers, positions, masks = array("d"), array("q"), MaskFile()
    for lot in lots:
        if any(item.category_id not in column or (item.bbox is None and item.segmentation is None) for item in lot):
            raise _UnusualError
        kept = [item for item in lot if item.image_id in place]
        if len(kept) < len(lot) and (not restricted or any(item.image_id % 1 for item in lot)):
            raise _UnusualError
        images = [place[item.image_id] for item in kept]
        packed = _packed(kept)
        areas = _keep_masks(kept, packed, ground_truth.sizes_hw[images], masks)
        positions.extend(chain.from_iterable(zip(images, [column[item.category_id] for item in kept], strict=True)))
        each = zip(kept, _boxes(kept, packed), areas, strict=True)
        rows = [(*box, item.score, _mask_score(item), area) for item, box, area in each]
        numbers.extend(chain.from_iterable(rows))
    table = np.frombuffer(numbers, dtype=np.float64).reshape(-1, 7)
    where = np.frombuffer(positions, dtype=np.int64).reshape(-1, 2)
    if not np.isfinite(table).all():
        raise _UnusualError
    order = np.argsort(where[:, 0], kind="stable")
    table, where = table[order], where[order]
    return Predictions(
        images=where[:, 0],
        categories=where[:, 1],
        boxes=table[:, :4],
        scores=table[:, 4],
        mask_scores=table[:, 5],
        mask_areas=table[:, 6],
        has_mask=masks.present()[order],
        mask_rows=order,
        masks=masks,
    )


def _mask_score(result: Result) -> float:
    return result.score if result.mask_score is None else result.mask_score


def _packed(results: list[Result]) -> list[str]:
    """The compressed run lengths of each, an empty text of one without a mask."""
    found = [item.segmentation for item in results]
    return ["" if m is None else m.counts if isinstance(m.counts, str) else _compress(m.counts, m.size) for m in found]


def _keep_masks(results: list[Result], texts: list[str], sizes_hw: np.ndarray, masks: MaskFile) -> list[int]:
    """Put the masks of results into the file; returns their areas in pixels, 0 of one without a mask."""
    packed, sizes = "".join(texts).encode("ascii"), np.array(list(map(len, texts)), dtype=np.int64)
    masks.add(packed, sizes.tolist())
    stated = [item.segmentation.size for item in results if item.segmentation is not None]
    areas = np.zeros(len(results), dtype=np.int64)
    if stated:
        there = np.array([item.segmentation is not None for item in results], dtype=bool)
        areas[there] = run_length_areas(packed, sizes[there], sizes_hw[there].prod(axis=1))
        if (np.array(stated) != sizes_hw[there]).any() or (areas < 0).any():
            raise _UnusualError
    return areas.tolist()


def _boxes(results: list[Result], packed: list[str]) -> list[Box]:
    """The box of each; of one without, that around its sound mask, as pycocotools' ``loadRes`` makes it."""
    bare = [k for k, item in enumerate(results) if item.bbox is None]
    runs = [{"size": mask.size, "counts": packed[k]} for k in bare if (mask := results[k].segmentation)]
    around = iter(coco_mask.toBbox(runs).tolist() if runs else ())
    return [item.bbox or next(around) for item in results]


def _compress(counts: list[int], size_hw: tuple[int, int]) -> str:
    """Run lengths that are given as a list."""
    height, width = size_hw
    if sum(counts) != height * width or min(counts) < 0:
        raise _UnusualError
    runs = {"size": [height, width], "counts": counts}
    return str(coco_mask.frPyObjects(runs, height, width)["counts"], "ascii")
