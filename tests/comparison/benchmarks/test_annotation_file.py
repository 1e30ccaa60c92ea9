import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from afictl.comparison.benchmarks.annotation_file import IMAGES, POLYGONS, write_annotation_file
from afictl.data.formats.coco_records import read_annotations
from afictl.errors import UserError

SCALE = 0.002


def test_the_file_is_sound_and_of_cocos_size_an_object(tmp_path):
    file = tmp_path / "instances.json"
    write_annotation_file(file, SCALE)
    contents = json.loads(file.read_text())
    assert len(contents["images"]) == round(SCALE * IMAGES)
    assert len(contents["annotations"]) == round(SCALE * POLYGONS)
    assert 430e6 < file.stat().st_size / SCALE < 470e6
    assert len(COCO(file).anns) == round(SCALE * POLYGONS)
    read = read_annotations(file)
    assert len(read.classes) == 80
    polygons = [record["segmentation"][0] for record in contents["annotations"]]
    assert min(map(len, polygons)) == 6
    for polygon, (x, y, width, height) in zip(polygons, read.xywh, strict=True):
        points = np.array(polygon).reshape(-1, 2)
        assert (points >= (x - 0.02, y - 0.02)).all()
        assert (points <= (x + width + 0.02, y + height + 0.02)).all()


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    written = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_annotation_file(tmp_path / name, SCALE / 10, seed)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("scale", [0, -1, 1.5])
def test_another_scale_is_refused(tmp_path, scale):
    with pytest.raises(UserError, match=f"--scale {scale}"):
        write_annotation_file(tmp_path / "a", scale)
