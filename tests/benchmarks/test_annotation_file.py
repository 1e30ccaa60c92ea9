import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from afictl.data.formats.coco import read_annotations
from afictl.errors import UserError
from benchmarks.annotation_file import IMAGES, POLYGONS, write_annotation_file

SCALE = 0.002


def test_annotation_file_is_valid_and_has_the_size_of_coco_per_object(tmp_path):
    file = tmp_path / "instances.json"
    write_annotation_file(file, SCALE)
    content = json.loads(file.read_text())
    assert len(content["images"]) == round(SCALE * IMAGES)
    assert len(content["annotations"]) == round(SCALE * POLYGONS)
    assert 430e6 < file.stat().st_size / SCALE < 470e6
    assert len(COCO(file).anns) == round(SCALE * POLYGONS)
    annotations = read_annotations(file)
    assert len(annotations.classes) == 80
    polygons = [record["segmentation"][0] for record in content["annotations"]]
    assert min(map(len, polygons)) == 6
    for polygon, (x, y, width, height) in zip(polygons, annotations.xywh, strict=True):
        corners = np.array(polygon).reshape(-1, 2)
        assert (corners >= (x - 0.02, y - 0.02)).all()
        assert (corners <= (x + width + 0.02, y + height + 0.02)).all()


def test_equal_seeds_give_equal_bytes(tmp_path):
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_annotation_file(tmp_path / name, SCALE / 10, seed)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_scale_out_of_range_is_an_error(tmp_path, scale):
    with pytest.raises(UserError, match=f"--scale {scale}"):
        write_annotation_file(tmp_path / "a", scale)
