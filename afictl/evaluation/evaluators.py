"""The two libraries that match predictions with objects: a fast one, and the reference to check it by."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from afictl.evaluation.ground_truth import GroundTruth, GroundTruthMasks
from afictl.evaluation.metrics import Precision
from afictl.evaluation.predictions import Predictions

_IMAGES = 64  # of which masks are in memory at once


def hotcoco(ground_truth: GroundTruth, predictions: Predictions, outlines: GroundTruthMasks | None) -> Precision:
    """Precision of boxes, or with ``outlines`` of masks, with a few images' masks in memory at a time."""
    from hotcoco import StreamingEval

    scorer = StreamingEval(_categories(ground_truth), "segm" if outlines else "bbox")
    for first in range(0, len(ground_truth.image_ids), _IMAGES):
        last = min(first + _IMAGES, len(ground_truth.image_ids))
        rows = np.arange(*predictions.of(first, last).indices(len(predictions.images)))
        objects = list(_objects(ground_truth, outlines, ground_truth.objects_of(first, last)))
        images = _images(ground_truth, first, last)
        if outlines is None:
            scorer.update(images, objects, _table(predictions, rows))
        else:
            rows = rows[predictions.has_mask[rows]]
            masks: Any = _run_lengths(ground_truth, predictions, rows)
            scorer.update(images, objects, _mask_table(predictions, rows), segmentation=masks)
    result = scorer.finalize()
    result.accumulate()
    return _precision(result)


def pycocotools(ground_truth: GroundTruth, predictions: Predictions, outlines: GroundTruthMasks | None) -> Precision:
    """The same from the reference, with every mask in memory."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    count = len(ground_truth.image_ids)
    found = _masks(ground_truth, predictions) if outlines else _boxes(predictions)
    sides: Any = (
        list(_objects(ground_truth, outlines, slice(0, len(ground_truth.images)))),
        [{**item, "id": number, "iscrowd": 0} for number, item in enumerate(found, start=1)],
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress on the console
        indices = [COCO(), COCO()]
        for index, annotations in zip(indices, sides, strict=True):  # its loadRes fails where nothing was found
            index.dataset = {
                "images": _images(ground_truth, 0, count),
                "categories": _categories(ground_truth),
                "annotations": annotations,
            }
            index.createIndex()
        scorer = COCOeval(*indices, "segm" if outlines else "bbox")
        scorer.evaluate()
        scorer.accumulate()
    return _precision(scorer)


PRECISION_OF = {"hotcoco": hotcoco, "pycocotools": pycocotools}
EVALUATORS = tuple(PRECISION_OF)


def _precision(scorer: Any) -> Precision:
    return np.asarray(scorer.eval["precision"])[..., -1]  # at most 100 detections of a class in an image


def _categories(ground_truth: GroundTruth) -> list[dict[str, Any]]:
    """Numbered from 1 in the order of their ids, which may be any; images and objects are too."""
    return [{"id": number, "name": name} for number, name in enumerate(ground_truth.classes, start=1)]


def _images(ground_truth: GroundTruth, first: int, last: int) -> list[dict[str, Any]]:
    sizes = ground_truth.sizes_hw[first:last].tolist()
    return [{"id": k, "height": height, "width": width} for k, (height, width) in enumerate(sizes, start=first + 1)]


def _objects(ground_truth: GroundTruth, outlines: GroundTruthMasks | None, rows: slice) -> Iterator[dict[str, Any]]:
    columns = (
        ground_truth.images[rows] + 1,
        ground_truth.categories[rows] + 1,
        ground_truth.boxes[rows],
        ground_truth.areas[rows],
        (outlines or ground_truth).crowd[rows].astype(int),
    )
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    masks = outlines.masks.read(range(rows.start, rows.stop)) if outlines else []
    sizes = ground_truth.sizes_hw[ground_truth.images[rows]].tolist() if outlines else []
    for k, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        mask = {"segmentation": {"size": sizes[k], "counts": masks[k]}} if outlines else {}
        yield {"id": rows.start + k + 1, **dict(zip(names, values, strict=True)), **mask}


def _table(predictions: Predictions, rows: np.ndarray) -> npt.NDArray[np.float64]:
    """(k,7): image, xywh, score, category."""
    columns = (predictions.images[rows] + 1, predictions.boxes[rows], predictions.scores[rows])
    return np.column_stack([*columns, predictions.categories[rows] + 1]).astype(np.float64)


def _mask_table(predictions: Predictions, rows: np.ndarray) -> npt.NDArray[np.float64]:
    """The same for masks, ranked by their own score, each with a box as large as the mask.

    By that hotcoco sorts them into size ranges, and not by the box that was found; detectron2 scores masks so too.
    """
    table = _table(predictions, rows)
    table[:, 1:5] = 0, 0, 0, 1
    table[:, 3], table[:, 5] = predictions.mask_areas[rows], predictions.mask_scores[rows]
    return table


def _run_lengths(ground_truth: GroundTruth, predictions: Predictions, rows: np.ndarray) -> list[dict[str, Any]]:
    sizes = ground_truth.sizes_hw[predictions.images[rows]].tolist()
    masks = predictions.masks.read(predictions.mask_rows[rows].tolist())
    return [{"size": size, "counts": counts} for size, counts in zip(sizes, masks, strict=True)]


def _boxes(predictions: Predictions) -> Iterator[dict[str, Any]]:
    for image, *box, score, category in _table(predictions, np.arange(len(predictions.images))).tolist():
        area = box[2] * box[3]
        yield {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score, "area": area}


def _masks(ground_truth: GroundTruth, predictions: Predictions) -> Iterator[dict[str, Any]]:
    rows = np.flatnonzero(predictions.has_mask)
    masks = _run_lengths(ground_truth, predictions, rows)
    for (image, *_, score, category), mask in zip(_mask_table(predictions, rows).tolist(), masks, strict=True):
        area = float(coco_mask.area(mask))
        yield {
            "image_id": int(image),
            "category_id": int(category),
            "segmentation": mask,
            "score": score,
            "area": area,
        }
