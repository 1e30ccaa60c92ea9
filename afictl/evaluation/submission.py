"""Submission files for COCO's evaluation server.

The server takes a zip file for boxes and one for masks, each with one JSON file, all of the same name
``detections_test-dev2017_ALGORITHM_results``. They are uploaded separately and therefore written to two folders.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from afictl.data import Dataset
from afictl.errors import UserError
from afictl.evaluation.ground_truth import GroundTruth, ground_truth_of
from afictl.evaluation.predictions import Predictions, read_predictions
from afictl.files import atomic_write

_MAX_DETECTIONS = 100
"""Detections per image that the server evaluates."""


def write_submission(predictions: Path, dataset: Dataset, folder: Path, name: str) -> list[Path]:
    """Write ``folder/bbox/detections_SET_NAME_results.zip`` and, where there are masks, the same in ``folder/segm``.

    The best 100 results of each image are written: boxes as xywh in original pixels, rounded to hundredths, and masks
    as compressed run lengths, ranked by ``mask_score`` if there is one.

    Args:
        predictions: file of COCO results.
        dataset: test images, from COCO's ``image_info_SET.json``.
        folder: folder to write to.
        name: name of the algorithm, without spaces.

    Returns:
        The paths of the files.

    Raises:
        UserError: an invalid result, which the server would reject; nothing is written.
    """
    truth = ground_truth_of(dataset, None)
    loaded = read_predictions(predictions, truth, restricted=False)
    negative = np.flatnonzero((loaded.boxes[:, 2:] < 0).any(axis=1))
    if len(negative):
        image = truth.image_ids[loaded.images[negative[0]]]
        raise UserError(f"predictions {predictions}: image {image}: a box has a negative width or height")
    stem = f"detections_{test_set(dataset.annotation_file)}_{name}_results"
    paths = [_write(folder / "bbox" / f"{stem}.zip", _boxes(truth, loaded))]
    if loaded.has_mask.any():
        paths.append(_write(folder / "segm" / f"{stem}.zip", _masks(truth, loaded)))
    return paths


def test_set(image_info: Path) -> str:
    """``test-dev2017`` of ``image_info_test-dev2017.json``."""
    return re.sub(r"^image_info_", "", image_info.stem)


def _write(path: Path, results: Iterator[dict[str, object]]) -> Path:
    """Write a zip file with a JSON file of the same name, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(path) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(path.with_suffix(".json").name, "w", force_zip64=True) as file,
    ):
        separator = b"["
        for result in results:
            file.write(separator + b"\n" + msgspec.json.encode(result))
            separator = b","
        file.write(b"[]\n" if separator == b"[" else b"\n]\n")
    return path


def _boxes(truth: GroundTruth, loaded: Predictions) -> Iterator[dict[str, object]]:
    for image, rows in _best(truth, loaded, loaded.scores, np.ones_like(loaded.has_mask)):
        for row in rows.tolist():
            yield {
                "image_id": image,
                "category_id": truth.category_ids[loaded.categories[row]],
                "bbox": loaded.boxes[row].round(2).tolist(),
                "score": float(loaded.scores[row]),
            }


def _masks(truth: GroundTruth, loaded: Predictions) -> Iterator[dict[str, object]]:
    for image, rows in _best(truth, loaded, loaded.mask_scores, loaded.has_mask):
        run_lengths = loaded.masks.read(loaded.mask_rows[rows].tolist())
        for row, counts in zip(rows.tolist(), run_lengths, strict=True):
            size = truth.sizes_hw[loaded.images[row]].tolist()
            yield {
                "image_id": image,
                "category_id": truth.category_ids[loaded.categories[row]],
                "segmentation": {"size": size, "counts": counts.decode("ascii")},
                "score": float(loaded.mask_scores[row]),
            }


def _best(
    truth: GroundTruth, loaded: Predictions, scores: np.ndarray, selection: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the id of each image and the rows of its best results in ``selection``, best first."""
    for k, image in enumerate(truth.image_ids.tolist()):
        rows = loaded.results_of(k, k + 1)
        selected_rows = np.arange(rows.start, rows.stop)[selection[rows]]
        yield image, selected_rows[np.argsort(-scores[selected_rows], kind="stable")[:_MAX_DETECTIONS]]
