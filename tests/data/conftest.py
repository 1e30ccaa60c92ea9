import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.fixture
def write_coco(tmp_path: Path) -> Write:
    """A function that writes both splits of a dataset and returns its folder.

    ``objects`` and ``images`` are partial records, completed with valid values; ``sections`` replaces whole sections.
    """

    def write(objects: list[dict[str, Any]], images: list[dict[str, Any]] | None = None, **sections: Any) -> Path:
        records = [
            {"id": k, "file_name": f"{k}.png", "width": 64, "height": 48, **image}
            for k, image in enumerate(images or [{}], start=1)
        ]
        defaults = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": SQUARE}
        annotations = [{"id": k, **defaults, **record} for k, record in enumerate(objects, start=1)]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        contents = {"images": records, "annotations": annotations, "categories": categories, **sections}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for split in ("train", "val"):
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(contents))
            for record in records:
                pixels = np.full((int(record["height"]), int(record["width"]), 3), 90, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / record["file_name"])
        return tmp_path

    return write
