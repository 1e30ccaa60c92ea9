import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = (40, 32)
"""Width and height of all images."""


def _object(number: int, image: int, category: int, box: list[float], **values: Any) -> dict[str, Any]:
    x, y, width, height = box
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    record = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": width * height}
    return {**record, "iscrowd": 0, "segmentation": [outline], **values}


def _run_lengths(box: tuple[int, int, int, int]) -> dict[str, Any]:
    pixels = np.zeros(SIZE[::-1], dtype=np.uint8, order="F")
    x, y, width, height = box
    pixels[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(pixels)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@pytest.fixture(scope="session")
def instances() -> dict[str, Any]:
    """A valid annotation file: polygons, a run-length crowd, an image without objects, ids with gaps."""
    images = [{"id": k, "file_name": f"{k}.png", "width": SIZE[0], "height": SIZE[1]} for k in (3, 5, 8)]
    crowd = {"segmentation": _run_lengths((2, 20, 16, 10)), "iscrowd": 1}
    annotations = [
        _object(11, 3, 2, [4.0, 4.0, 10.0, 12.0]),
        _object(12, 3, 7, [20.0, 6.0, 15.0, 9.0]),
        _object(13, 3, 2, [2.0, 20.0, 16.0, 10.0], **crowd),
        _object(14, 5, 7, [0.0, 0.0, 40.0, 32.0], segmentation=_run_lengths((0, 0, 40, 32))),
        _object(15, 5, 2, [30.0, 20.0, 6.5, 7.5]),
    ]
    categories = [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="session")
def results(instances: dict[str, Any]) -> list[dict[str, Any]]:
    """Valid COCO results for ``instances``: some exact, some displaced, with boxes and masks."""
    records = []
    for k, record in enumerate(instances["annotations"]):
        x, y, width, height = (int(value) for value in record["bbox"])
        box = [x + k % 3, y, width, height]
        mask = _run_lengths((x, y, width, max(1, height - k)))
        keys = {name: record[name] for name in ("image_id", "category_id")}
        records.append({**keys, "bbox": box, "score": round(0.9 - 0.1 * k, 2), "segmentation": mask})
    return [*records, {"image_id": 8, "category_id": 2, "bbox": [1, 1, 5, 5], "score": 0.3}]


@pytest.fixture
def folder(tmp_path: Path, instances: dict[str, Any]) -> Path:
    """A folder with a valid dataset ``data`` of three images a split, and an empty folder ``output``."""
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "output").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir()
        (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(instances))
        for image in instances["images"]:
            Image.new("RGB", SIZE, (90, 60, 30)).save(tmp_path / "data" / split / image["file_name"])
    return tmp_path
