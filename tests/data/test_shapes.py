import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from afictl.data import load_dataset, make_shapes
from afictl.data.check import check_split
from afictl.data.shapes import CLASSES, draw_image
from afictl.errors import UserError


def test_drawn_masks_are_disjoint_visible_and_small():
    widths = []
    for seed in range(20):
        image, shapes = draw_image(np.random.default_rng(seed), 160)
        assert image.shape == (160, 160, 3)
        assert image.dtype == np.uint8
        assert sum(shape.mask for shape in shapes).max() == 1
        assert all(shape.mask.sum() >= 8 for shape in shapes)
        widths += [np.ptp(np.nonzero(shape.mask)[1]) + 1 for shape in shapes]
    assert np.median(widths) < 20
    assert max(widths) > 28


def test_objects_contrast_with_their_background():
    image, shapes = draw_image(np.random.default_rng(3), 160)
    for shape in shapes:
        inside = image[shape.mask].mean(axis=0)
        ring = ring_around(shape.mask) & ~np.any([other.mask for other in shapes], axis=0)
        if ring.sum() > 10:
            assert np.abs(inside - image[ring].mean(axis=0)).max() > 25


def ring_around(mask):
    dilated = mask.copy()
    for _ in range(3):
        dilated[1:] |= dilated[:-1].copy()
        dilated[:-1] |= dilated[1:].copy()
        dilated[:, 1:] |= dilated[:, :-1].copy()
        dilated[:, :-1] |= dilated[:, 1:].copy()
    return dilated & ~mask


def test_annotations_match_drawn_masks(shapes_dir):
    contents = json.loads((shapes_dir / "annotations" / "instances_train2017.json").read_text())
    assert [category["name"] for category in contents["categories"]] == list(CLASSES)
    _, shapes = draw_image(np.random.default_rng((0, 0, 1)), 96)
    annotations = [record for record in contents["annotations"] if record["image_id"] == 1]
    for record, shape in zip(annotations, shapes, strict=True):
        mask = coco_mask.decode(record["segmentation"])
        assert (mask == shape.mask).all()
        rows, columns = np.nonzero(mask)
        x, y, width, height = record["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        assert (record["area"], record["category_id"]) == (mask.sum(), shape.label)


def test_generated_data_pass_the_check(shapes_dir):
    for split in ("train", "val"):
        assert not check_split(shapes_dir, split).findings
    dataset = load_dataset(shapes_dir, "train")
    assert (len(dataset), dataset.has_masks, dataset.left_out(masks=True)) == (14, True, {})
    with Image.open(dataset.image_path(0)) as image:
        assert image.size == (96, 96)


def test_same_seed_gives_same_images_and_replaces_an_earlier_set(shapes_dir, tmp_path):
    out = make_shapes(tmp_path / "shapes", train=3, val=1, size=96)
    assert (out / "train2017/000001.jpg").read_bytes() == (shapes_dir / "train2017/000001.jpg").read_bytes()
    make_shapes(out, train=2, val=1, size=96, seed=4)
    assert len(list((out / "train2017").iterdir())) == 2
    assert (out / "train2017/000001.jpg").read_bytes() != (shapes_dir / "train2017/000001.jpg").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_folder_with_other_contents_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=f"{tmp_path}.*'afictl data shapes'"):
        make_shapes(tmp_path, train=1, val=1)
    with pytest.raises(UserError, match="one image"):
        make_shapes(tmp_path / "new", train=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
