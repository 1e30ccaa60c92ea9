"""Precision arrays of two COCO evaluators: hotcoco, which is fast, and pycocotools, the reference."""

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

_IMAGES_PER_UPDATE = 64
"""Images per batch, whose masks are in memory at once."""


def hotcoco_precision(
    ground_truth: GroundTruth, predictions: Predictions, truth_masks: GroundTruthMasks | None
) -> Precision:
    """Precision of boxes, or with ``truth_masks`` of masks, by hotcoco, with the masks of 64 images in memory."""
    from hotcoco import StreamingEval

    scorer = StreamingEval(_categories(ground_truth), "segm" if truth_masks else "bbox")
    for first in range(0, len(ground_truth.image_ids), _IMAGES_PER_UPDATE):
        last = min(first + _IMAGES_PER_UPDATE, len(ground_truth.image_ids))
        rows = np.arange(*predictions.results_of(first, last).indices(len(predictions.images)))
        objects = list(_objects(ground_truth, truth_masks, ground_truth.objects_of(first, last)))
        images = _images(ground_truth, first, last)
        if truth_masks is None:
            scorer.update(images, objects, _table(predictions, rows))
        else:
            rows = rows[predictions.has_mask[rows]]
            masks: Any = _run_lengths(ground_truth, predictions, rows)
            scorer.update(images, objects, _mask_table(predictions, rows), segmentation=masks)
    result = scorer.finalize()
    result.accumulate()
    return _precision(result)


def pycocotools_precision(
    ground_truth: GroundTruth, predictions: Predictions, truth_masks: GroundTruthMasks | None
) -> Precision:
    """Precision of boxes, or with ``truth_masks`` of masks, by pycocotools; all masks are in memory."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    count = len(ground_truth.image_ids)
    results = _masks(ground_truth, predictions) if truth_masks else _boxes(predictions)
    annotations = (
        list(_objects(ground_truth, truth_masks, slice(0, len(ground_truth.images)))),
        [{**item, "id": number, "iscrowd": 0} for number, item in enumerate(results, start=1)],
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        indices = [COCO(), COCO()]
        for index, records in zip(indices, annotations, strict=True):  # COCO.loadRes fails without results
            index.dataset = {
                "images": _images(ground_truth, 0, count),
                "categories": _categories(ground_truth),
                "annotations": records,
            }
            index.createIndex()
        scorer = COCOeval(*indices, "segm" if truth_masks else "bbox")
        scorer.evaluate()
        scorer.accumulate()
    return _precision(scorer)


PRECISION_OF = {"hotcoco": hotcoco_precision, "pycocotools": pycocotools_precision}
EVALUATORS = tuple(PRECISION_OF)


def _precision(scorer: Any) -> Precision:
    return np.asarray(scorer.eval["precision"])[..., -1]  # for at most 100 detections per class and image


def _categories(ground_truth: GroundTruth) -> list[dict[str, object]]:
    """COCO categories; like images and objects numbered from 1, as the ids in a file may be any integers."""
    return [{"id": number, "name": name} for number, name in enumerate(ground_truth.classes, start=1)]


def _images(ground_truth: GroundTruth, first: int, last: int) -> list[dict[str, object]]:
    sizes = ground_truth.sizes_hw[first:last].tolist()
    return [{"id": k, "height": height, "width": width} for k, (height, width) in enumerate(sizes, start=first + 1)]


def _objects(
    ground_truth: GroundTruth, truth_masks: GroundTruthMasks | None, rows: slice
) -> Iterator[dict[str, object]]:
    columns = (
        ground_truth.images[rows] + 1,
        ground_truth.categories[rows] + 1,
        ground_truth.boxes[rows],
        ground_truth.areas[rows],
        (truth_masks or ground_truth).crowd[rows].astype(int),
    )
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    masks = truth_masks.masks.read(range(rows.start, rows.stop)) if truth_masks else []
    sizes = ground_truth.sizes_hw[ground_truth.images[rows]].tolist() if truth_masks else []
    for k, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        mask = {"segmentation": {"size": sizes[k], "counts": masks[k]}} if truth_masks else {}
        yield {"id": rows.start + k + 1, **dict(zip(names, values, strict=True)), **mask}


def _table(predictions: Predictions, rows: np.ndarray) -> npt.NDArray[np.float64]:
    """Table (k,7) of image id, xywh, score and category id."""
    columns = (predictions.images[rows] + 1, predictions.boxes[rows], predictions.scores[rows])
    return np.column_stack([*columns, predictions.categories[rows] + 1]).astype(np.float64)


def _mask_table(predictions: Predictions, rows: np.ndarray) -> npt.NDArray[np.float64]:
    """Table (k,7) of masks, with mask scores and a box of the area of each mask.

    hotcoco derives the size range of a result from the area of its box; as in detectron2 it must be that of the mask.
    """
    table = _table(predictions, rows)
    table[:, 1:5] = 0, 0, 0, 1
    table[:, 3], table[:, 5] = predictions.mask_areas[rows], predictions.mask_scores[rows]
    return table


def _run_lengths(ground_truth: GroundTruth, predictions: Predictions, rows: np.ndarray) -> list[dict[str, object]]:
    sizes = ground_truth.sizes_hw[predictions.images[rows]].tolist()
    masks = predictions.masks.read(predictions.mask_rows[rows].tolist())
    return [{"size": size, "counts": counts} for size, counts in zip(sizes, masks, strict=True)]


def _boxes(predictions: Predictions) -> Iterator[dict[str, object]]:
    for image, *box, score, category in _table(predictions, np.arange(len(predictions.images))).tolist():
        area = box[2] * box[3]
        yield {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score, "area": area}


def _masks(ground_truth: GroundTruth, predictions: Predictions) -> Iterator[dict[str, object]]:
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
