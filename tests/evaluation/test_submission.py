"""Files for COCO's evaluation server."""

import json
import zipfile

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from afictl.data.formats.coco import load_coco_file
from afictl.errors import UserError
from afictl.evaluation.submission import write_submission

SIZE = (30, 40)


@pytest.fixture
def listed_images(tmp_path):
    path = tmp_path / "image_info_test-dev2017.json"
    images = [{"id": k, "file_name": f"{k}.jpg", "height": SIZE[0], "width": SIZE[1]} for k in (9, 3, 581929)]
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "a"}, {"id": 90, "name": "b"}]}))
    return load_coco_file(path, tmp_path)


def result(image_id=9, category_id=90, bbox=(1.234567, 2, 3, 4), score=0.5, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score, **more}


def mask_of(pixels):
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask.ravel(order="K")[:pixels] = 1
    packed = coco_mask.encode(mask)
    return {"size": list(SIZE), "counts": packed["counts"].decode()}


def write(tmp_path, results):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(results))
    return path


def read(path):
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        assert name == path.with_suffix(".json").name
        return json.loads(archive.read(name))


def test_both_files_are_as_the_server_reads_them(tmp_path, listed_images):
    rng = np.random.default_rng(0)
    results = [
        result(score=float(s), segmentation=mask_of(k + 1), mask_score=float(m))
        for k, (s, m) in enumerate(rng.random((130, 2)))
    ]
    results.insert(60, result(581929, 1, (0, 0, 40, 30)))
    files = write_submission(write(tmp_path, results), listed_images, tmp_path / "out", "net")
    stem = "detections_test-dev2017_net_results.zip"
    assert files == [tmp_path / "out" / kind / stem for kind in ("bbox", "segm")]
    boxes, masks = map(read, files)
    with_masks = [item for item in results if "segmentation" in item]
    scores = sorted((item["score"] for item in with_masks), reverse=True)
    assert [item["score"] for item in boxes if item["image_id"] == 9] == scores[:100]
    assert len(boxes) == 101
    assert boxes[0]["bbox"] == [1.23, 2, 3, 4]
    assert boxes[-1] == {"image_id": 581929, "category_id": 1, "bbox": [0, 0, 40, 30], "score": 0.5}
    mask_scores = sorted((item["mask_score"] for item in with_masks), reverse=True)
    assert [item["score"] for item in masks] == [*mask_scores[:100], 0.5]
    assert coco_mask.area(masks[-1]["segmentation"]) == 40 * 30  # the box of the result without a mask
    assert all(set(item) == {"image_id", "category_id", "segmentation", "score"} for item in masks)
    best = max(with_masks, key=lambda item: item["mask_score"])
    assert masks[0]["segmentation"] == best["segmentation"]
    # the reference reads them too
    server = COCO()
    server.dataset = json.loads(listed_images.annotation_file.read_text())
    server.createIndex()
    (tmp_path / "plain.json").write_text(json.dumps(masks))
    assert len(server.loadRes(str(tmp_path / "plain.json")).anns) == 101


def test_results_without_masks_and_without_boxes(tmp_path, listed_images):
    (file,) = write_submission(write(tmp_path, [result()]), listed_images, tmp_path / "out", "net")
    assert len(read(file)) == 1
    (file,) = write_submission(write(tmp_path, []), listed_images, tmp_path / "out", "net")
    assert read(file) == []


@pytest.mark.parametrize(
    ("invalid", "facts"),
    [
        (result(image_id=4), "entry 1: image 4 "),
        (result(category_id=2), "entry 1: category 2 "),
        (result(bbox=(1, 2, -3, 4)), "image 9: .*negative"),
        (result(score=float("nan")), "entry 1: .*'score' .*finite"),
        (result(segmentation={"size": [40, 30], "counts": mask_of(3)["counts"]}), "entry 1: .*'segmentation'"),
        (result(segmentation={"size": list(SIZE), "counts": "0"}), "entry 1: .*'segmentation'"),
    ],
)
def test_results_that_the_server_would_refuse_leave_no_files(tmp_path, listed_images, invalid, facts):
    with pytest.raises(UserError, match=facts):
        write_submission(write(tmp_path, [result(), invalid]), listed_images, tmp_path / "out", "net")
    assert not (tmp_path / "out").exists()
