"""Files of results as COCO's evaluation server takes them.

The server wants one zip for boxes and one for masks, each with one JSON file inside, and both of the same name:
``detections_test-dev2017_ALGORITHM_results``. They are uploaded apart, so they lie in folders of their own.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from afictl.data import Dataset
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth, ground_truth_of
from afictl.evaluation.predictions import Predictions, read_predictions
from afictl.files import atomic_write

_MOST = 100
"""Detections of an image that the server looks at."""


def write_submission(predictions: Path, dataset: Dataset, folder: Path, name: str) -> list[Path]:
    """Write ``folder/bbox/detections_SET_NAME_results.zip`` and, where there are masks, the same in ``folder/segm``.

    Everything is checked first: ids, box sizes, finite numbers, and that run lengths are readable and fill their image.
    An image keeps its best 100 results. Ids are those of the predictions; boxes are xywh in original pixels, rounded to
    hundredths; masks are compressed run lengths, ranked by ``mask_score`` where there is one.

    Args:
        predictions: file of COCO results.
        dataset: of COCO's list of the test images, ``image_info_SET.json``.
        folder: where to write.
        name: of the algorithm, without spaces.

    Returns:
        The files.

    Raises:
        UserError: a result that the server would not take; nothing is written then.
    """
    truth = ground_truth_of(dataset, None)
    found = read_predictions(predictions, truth, restricted=False)
    narrow = np.flatnonzero((found.boxes[:, 2:] < 0).any(axis=1))
    if len(narrow):
        image = truth.image_ids[found.images[narrow[0]]]
        raise UserError(f"predictions {predictions}: image {image}: a box has a negative width or height")
    stem = f"detections_{test_set(dataset.annotation_file)}_{name}_results"
    written = [_write(folder / "bbox" / f"{stem}.zip", _boxes(truth, found))]
    if found.has_mask.any():
        written.append(_write(folder / "segm" / f"{stem}.zip", _masks(truth, found)))
    return written


def test_set(image_info: Path) -> str:
    """``test-dev2017`` of ``image_info_test-dev2017.json``."""
    return re.sub(r"^image_info_", "", image_info.stem)


def _write(path: Path, results: Iterator[dict[str, Any]]) -> Path:
    """A zip with the JSON file of the same name, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(path) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(path.with_suffix(".json").name, "w", force_zip64=True) as file,
    ):
        before = b"["
        for result in results:
            file.write(before + b"\n" + msgspec.json.encode(result))
            before = b","
        file.write(b"[]\n" if before == b"[" else b"\n]\n")
    return path


def _boxes(truth: GroundTruth, found: Predictions) -> Iterator[dict[str, Any]]:
    for image, rows in _best(truth, found, found.scores, np.ones_like(found.has_mask)):
        for row in rows.tolist():
            yield {
                "image_id": image,
                "category_id": truth.category_ids[found.categories[row]],
                "bbox": found.boxes[row].round(2).tolist(),
                "score": float(found.scores[row]),
            }


def _masks(truth: GroundTruth, found: Predictions) -> Iterator[dict[str, Any]]:
    for image, rows in _best(truth, found, found.mask_scores, found.has_mask):
        packed = found.masks.read(found.mask_rows[rows].tolist())
        for row, counts in zip(rows.tolist(), packed, strict=True):
            size = truth.sizes_hw[found.images[row]].tolist()
            yield {
                "image_id": image,
                "category_id": truth.category_ids[found.categories[row]],
                "segmentation": {"size": size, "counts": counts.decode("ascii")},
                "score": float(found.mask_scores[row]),
            }


def _best(
    truth: GroundTruth, found: Predictions, scores: np.ndarray, chosen: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """The id of each image and the rows of its best results among ``chosen``, best first."""
    for k, image in enumerate(truth.image_ids.tolist()):
        rows = found.of(k, k + 1)
        rows_here = np.arange(rows.start, rows.stop)[chosen[rows]]
        yield image, rows_here[np.argsort(-scores[rows_here], kind="stable")[:_MOST]]
