"""Generated objects and detections of the size of COCO's validation set, for the benchmark of the metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from afictl.files import name_file_in_errors, write_text

DETECTIONS = 100
"""Detections per image, the maximum of the COCO metrics."""

_CATEGORIES = 80
_WIDTH, _HEIGHT = 640, 480
_CORNERS = 24
_ANGLES = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)


def write_detections(folder: Path, images: int, masks: bool, seed: int = 0) -> tuple[Path, Path]:
    """Write ``instances.json`` and ``predictions.json``; the same arguments give the same bytes.

    On average 7.3 objects per image as in COCO, unevenly distributed over images and 80 classes; 1 in 80 is a crowd. At
    most half of the detections of an image are near an object, 9 in 10 of these with its class; scores have three
    decimals, so that some are equal. Masks are star-shaped polygons of 24 corners, those of crowds and detections RLE.

    Returns:
        The annotation file and the file of detections.
    """
    generator = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, _CATEGORIES + 1) ** 0.9
    popularity /= popularity.sum()
    ids = np.sort(generator.choice(120 * images, images, replace=False)) + 1
    ground_truth, predictions = folder / "instances.json", folder / "predictions.json"
    annotations: list[str] = []
    with name_file_in_errors(predictions), open(predictions, "w", encoding="ascii", newline="\n") as output:
        for k, image in enumerate(ids.tolist()):
            image_classes = generator.choice(_CATEGORIES, 4, p=popularity) + 1
            count = int(generator.negative_binomial(1.2, 1.2 / (1.2 + 7.3)))
            boxes, classes = _boxes(generator, count), generator.choice(image_classes, count)
            for box, category in zip(boxes, classes.tolist(), strict=True):
                annotations.append(_object_record(generator, len(annotations) + 1, image, category, box, masks))
            results = _detection_records(generator, image, boxes, classes, image_classes, masks)
            output.write(("[" if k == 0 else ",") + "\n" + ",\n".join(results))
        output.write("\n]\n")
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": _HEIGHT, "width": _WIDTH} for i in ids.tolist()],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, _CATEGORIES + 1)],
    }
    write_text(ground_truth, f'{json.dumps(content)[:-1]}, "annotations": [' + ",\n".join(annotations) + "]}\n")
    return ground_truth, predictions


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float xywh in pixels inside the image, from a few pixels to half of it."""
    sizes = np.exp(generator.normal(np.log(60), 0.9, (count, 2))).clip(4, (_WIDTH, _HEIGHT))
    corners = generator.random((count, 2)) * ((_WIDTH, _HEIGHT) - sizes)
    return np.concatenate([corners, sizes], axis=1)


def _object_record(
    generator: np.random.Generator, number: int, image: int, category: int, box: np.ndarray, masks: bool
) -> str:
    crowd = bool(generator.random() < 1 / 80)
    area = round(float(box[2] * box[3]) * 0.7, 3)
    record = {"id": number, "image_id": image, "category_id": category, "bbox": box.round(2).tolist(), "area": area}
    if masks:
        outline = _outline(generator, box).round(2)
        record["segmentation"] = _rle(outline) if crowd else [outline.tolist()]
    return json.dumps({**record, "iscrowd": int(crowd)})


def _detection_records(
    generator: np.random.Generator,
    image: int,
    boxes: np.ndarray,
    classes: np.ndarray,
    image_classes: np.ndarray,
    masks: bool,
) -> list[str]:
    """JSON records of the detections of one image, best first."""
    near = generator.random(DETECTIONS) < min(0.5, 0.06 * len(boxes))
    positions, labels = _boxes(generator, DETECTIONS), generator.choice(image_classes, DETECTIONS)
    if len(boxes):
        targets = generator.integers(len(boxes), size=DETECTIONS)
        jittered = boxes[targets] * (1 + generator.normal(0, 0.08, (DETECTIONS, 4)))
        positions = np.where(near[:, None], jittered, positions)
        labels = np.where(near & (generator.random(DETECTIONS) < 0.9), classes[targets], labels)
    scores = np.where(near, generator.beta(2, 1.5, DETECTIONS), generator.beta(1, 8, DETECTIONS)).clip(0.001).round(3)
    records = []
    for k in np.argsort(-scores, kind="stable").tolist():
        box = positions[k].clip(0.5).round(2)
        record = {"image_id": image, "category_id": int(labels[k]), "bbox": box.tolist(), "score": float(scores[k])}
        if masks:
            record["segmentation"] = _rle(_outline(generator, box))
        records.append(json.dumps(record))
    return records


def _outline(generator: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """Flat polygon ``x0 y0 x1 y1 ...`` inside an xywh box."""
    radii = generator.uniform(0.7, 1, _CORNERS)
    centre = box[:2] + box[2:] / 2
    corners = centre + box[2:] / 2 * np.stack([np.cos(_ANGLES) * radii, np.sin(_ANGLES) * radii], axis=1)
    return corners.ravel()


def _rle(outline: np.ndarray) -> dict[str, object]:
    (rle,) = coco_mask.frPyObjects([outline.tolist()], _HEIGHT, _WIDTH)
    return {"size": [_HEIGHT, _WIDTH], "counts": rle["counts"].decode("ascii")}
