"""Generated objects and detections of the size of COCO's validation set: what the metric is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from afictl.files import name_file_in_errors, write_text

IMAGES, DETECTIONS = 5000, 100
"""As many images as in COCO's validation set, and as many detections of each as its metric takes."""

_CATEGORIES = 80
_WIDTH, _HEIGHT = 640, 480
_CORNERS = 24
_ANGLES = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)


def write_detections(folder: Path, images: int, masks: bool, seed: int = 0) -> tuple[Path, Path]:
    """Write ``instances.json`` and ``predictions.json``; the same arguments give the same bytes.

    About 7.3 objects an image as COCO has, very unevenly spread over images and 80 classes, one in 80 a crowd. Half of
    an image's detections at most lie near an object, nine in ten of them of its class; their scores have three digits,
    so that some are equal. Outlines are star-shaped polygons of 24 corners, those of crowds and detections run lengths.

    Returns:
        Both files.
    """
    generator = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, _CATEGORIES + 1) ** 0.9
    popularity /= popularity.sum()
    ids = np.sort(generator.choice(120 * images, images, replace=False)) + 1
    truth, found = folder / "instances.json", folder / "predictions.json"
    annotations: list[str] = []
    with name_file_in_errors(found), open(found, "w", encoding="ascii", newline="\n") as out:
        for k, image in enumerate(ids.tolist()):
            usual = generator.choice(_CATEGORIES, 4, p=popularity) + 1
            count = int(generator.negative_binomial(1.2, 1.2 / (1.2 + 7.3)))
            boxes, classes = _boxes(generator, count), generator.choice(usual, count)
            for box, category in zip(boxes, classes.tolist(), strict=True):
                annotations.append(_object(generator, len(annotations) + 1, image, category, box, masks))
            results = _results(generator, image, boxes, classes, usual, masks)
            out.write(("[" if k == 0 else ",") + "\n" + ",\n".join(results))
        out.write("\n]\n")
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": _HEIGHT, "width": _WIDTH} for i in ids.tolist()],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, _CATEGORIES + 1)],
    }
    write_text(truth, f'{json.dumps(content)[:-1]}, "annotations": [' + ",\n".join(annotations) + "]}\n")
    return truth, found


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xywh inside the image, from a few pixels to half of it."""
    sizes = np.exp(generator.normal(np.log(60), 0.9, (count, 2))).clip(4, (_WIDTH, _HEIGHT))
    corners = generator.random((count, 2)) * ((_WIDTH, _HEIGHT) - sizes)
    return np.concatenate([corners, sizes], axis=1)


def _object(
    generator: np.random.Generator, number: int, image: int, category: int, box: np.ndarray, masks: bool
) -> str:
    crowd = bool(generator.random() < 1 / 80)
    area = round(float(box[2] * box[3]) * 0.7, 3)
    record = {"id": number, "image_id": image, "category_id": category, "bbox": box.round(2).tolist(), "area": area}
    if masks:
        outline = _outline(generator, box).round(2)
        record["segmentation"] = _run_lengths(outline) if crowd else [outline.tolist()]
    return json.dumps({**record, "iscrowd": int(crowd)})


def _results(
    generator: np.random.Generator,
    image: int,
    boxes: np.ndarray,
    classes: np.ndarray,
    usual: np.ndarray,
    masks: bool,
) -> list[str]:
    """The detections of one image, best first."""
    near = generator.random(DETECTIONS) < min(0.5, 0.06 * len(boxes))
    places, labels = _boxes(generator, DETECTIONS), generator.choice(usual, DETECTIONS)
    if len(boxes):
        of = generator.integers(len(boxes), size=DETECTIONS)
        jittered = boxes[of] * (1 + generator.normal(0, 0.08, (DETECTIONS, 4)))
        places = np.where(near[:, None], jittered, places)
        labels = np.where(near & (generator.random(DETECTIONS) < 0.9), classes[of], labels)
    scores = np.where(near, generator.beta(2, 1.5, DETECTIONS), generator.beta(1, 8, DETECTIONS)).clip(0.001).round(3)
    records = []
    for k in np.argsort(-scores, kind="stable").tolist():
        box = places[k].clip(0.5).round(2)
        record = {"image_id": image, "category_id": int(labels[k]), "bbox": box.tolist(), "score": float(scores[k])}
        if masks:
            record["segmentation"] = _run_lengths(_outline(generator, box))
        records.append(json.dumps(record))
    return records


def _outline(generator: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """A flat polygon ``x0 y0 x1 y1 ...`` in an xywh box."""
    reach = generator.uniform(0.7, 1, _CORNERS)
    centre = box[:2] + box[2:] / 2
    corners = centre + box[2:] / 2 * np.stack([np.cos(_ANGLES) * reach, np.sin(_ANGLES) * reach], axis=1)
    return corners.ravel()


def _run_lengths(outline: np.ndarray) -> dict[str, object]:
    (packed,) = coco_mask.frPyObjects([outline.tolist()], _HEIGHT, _WIDTH)
    return {"size": [_HEIGHT, _WIDTH], "counts": packed["counts"].decode("ascii")}
